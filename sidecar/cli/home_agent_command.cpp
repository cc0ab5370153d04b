#include "sidecar/cli/home_agent_command.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "core/log.hpp"
#include "core/notify.hpp"
#include "core/stream.hpp"
#include "core/sync.hpp"
#include "netmove/mobile_ipv6/home_agent.hpp"
#include "sidecar/cli/commands.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;
using netmove::mobile_ipv6::HomeAgent;
using netmove::mobile_ipv6::HomeAgentOptions;

namespace {

// 65,536 bindings of 500 bytes.
constexpr std::size_t status_bytes_max = 64U << 20U;
constexpr core::seconds status_limit{10};

std::string socket_directory(Paths const& paths) { return paths.run_directory + "/.home-agent"; }
std::string socket_path(Paths const& paths, std::string const& link) {
    return socket_directory(paths) + "/" + link + ".sock";
}

Result<HomeAgentOptions> read_options(Options const& options) {
    auto const& chosen = options.home_agent;
    HomeAgentOptions made;
    made.link = chosen.link;
    made.address = chosen.address.address;
    made.prefix_length = chosen.address.prefix_length;
    made.ipv4_address = chosen.ipv4_address;
    made.require_authentication = !chosen.plaintext;
    made.state_directory = options.paths.home_agents() + "/" + chosen.link;
    TRY_VOID(netmove::check_interface_name(chosen.link));
    TRY(auto const text, read_file(chosen.config, home_agent_config_bytes_max));
    TRY(made.permissions, parse_permissions(text, chosen.config));
    return made;
}

/// One connection: the status, and the end.
Task<void> answer_status(core::Loop& loop, HomeAgent const& agent, core::Fd socket) {
    auto const stream = core::plain_stream(loop, std::move(socket), "`home-agent status`");
    auto const text = agent.status().dump();
    // Who asks and does not read is no error of ours.
    (void)co_await stream->write_all(std::as_bytes(std::span(text)), Deadline::after(status_limit));
}

Task<void> serve_status(core::Loop& loop, HomeAgent const& agent, int listener,
                        std::stop_token stop) {
    while (!stop.stop_requested()) {
        auto const accepted = co_await loop.accept(listener, Deadline::never(stop));
        if (!accepted) {
            if (accepted.error().code == Errc::cancelled) break;
            if (!co_await core::sleep_for(loop, core::seconds(1), stop)) break;
            continue;
        }
        core::Fd socket(*accepted);
        if (is_from_our_user(socket.get())) {
            co_await answer_status(loop, agent, std::move(socket));
        }
    }
}

Task<Result<>> run_agent(core::Loop& loop, Options const& options, std::stop_token terminate) {
    auto const& link = options.home_agent.link;
    CO_TRY(auto chosen, read_options(options));
    CO_TRY_VOID(HomeAgent::check(chosen));
    if (options.home_agent.check_only) {
        fmt::print("{}: a home agent can run here, for {} home addresses\n", link,
                   chosen.permissions.size());
        co_return Result<>{};
    }
    CO_TRY_VOID(make_directory(chosen.state_directory));
    CO_TRY_VOID(make_directory(socket_directory(options.paths)));
    CO_TRY(auto const agent, HomeAgent::open(loop, std::move(chosen)));
    auto const path = socket_path(options.paths, link);
    CO_TRY(auto const listener, core::listen_unix(path, 0600));
    core::log::warning(
        "home-agent: without authentication: a host that can send from a permitted care-of address "
        "can "
        "take the traffic of its home addresses");
    core::log::info("home-agent: link={} address={} bindings={}", link,
                    options.home_agent.address.text(), agent->bindings());
    core::notify_ready();
    core::LinkedStop stop(std::move(terminate));
    core::TaskGroup beside(loop);
    beside.spawn(serve_status(loop, *agent, listener.get(), stop.token()));
    auto const ended = co_await agent->run(stop.token());
    stop.request_stop();
    co_await beside.join();
    ::unlink(path.c_str());
    co_return ended;
}

// ---- status -------------------------------------------------------------------------------------

/// null: no process answers there: the home agent was killed.
Task<Result<Json>> ask_status(core::Loop& loop, std::string path) {
    auto const limit = Deadline::after(status_limit);
    auto socket = co_await core::connect_unix(loop, path, limit);
    if (!socket && socket.error().os == ECONNREFUSED) co_return Json();
    if (!socket) co_return std::unexpected(std::move(socket.error()));
    auto const stream = core::plain_stream(loop, std::move(*socket), path);
    std::string text;
    std::vector<std::byte> part(1U << 16U);
    while (text.size() <= status_bytes_max) {
        auto const got = co_await stream->read_some(part, limit);
        if (!got && got.error().code == Errc::closed) break;
        if (!got) co_return std::unexpected(got.error());
        text.append(reinterpret_cast<char const*>(part.data()), *got);
    }
    if (text.empty()) co_return Json();
    co_return Json::parse(text);
}

void print_binding(Json const& binding) {
    auto const state = binding["state"].text_or("");
    if (state == "released") return;  // only a number that is remembered
    auto const number = [&binding](std::string_view key) { return binding[key].integer_or(0); };
    auto const ipv4 = binding["ipv4_home"].text_or("");
    auto const home = binding["home"].text_or("") + (ipv4.empty() ? "" : " " + ipv4);
    if (state == "detecting") {
        fmt::print("    {:<32} looking for another station that has it\n", home);
        return;
    }
    auto const port = number("udp_port");
    fmt::print("    {:<32} at {}{}, for {} s more; {} packets to it, {} from it\n", home,
               binding["care_of"].text_or(""), port == 0 ? "" : fmt::format(" UDP {}", port),
               number("remaining_s"), number("packets_to"), number("packets_from"));
}

void print_counters(char const* what, Json const& counters) {
    std::string text;
    for (auto const& [key, value] : counters.members()) {
        if (value.integer_or(0) == 0) continue;
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", value.integer_or(0), key);
    }
    fmt::print("    {:<10}{}\n", what, text.empty() ? "none" : text);
}

void print_status(Json const& status) {
    fmt::print("{}: home agent {}\n", status["link"].text_or(""), status["address"].text_or(""));
    for (auto const& binding : status["bindings"].elements()) print_binding(binding);
    print_counters("updates", status["updates"]);
    print_counters("dropped", status["dropped"]);
}

Task<Result<>> show_status(core::Loop& loop, Options const& options) {
    Json all = Json::array();
    std::error_code error;
    std::vector<std::string> paths;
    for (std::filesystem::directory_iterator at(socket_directory(options.paths), error);
         !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
        if (at->path().extension() == ".sock") paths.push_back(at->path().string());
    }
    std::ranges::sort(paths);
    for (auto const& path : paths) {
        auto const& link = options.home_agent.link;
        if (!link.empty() && path != socket_path(options.paths, link)) continue;
        auto status = co_await ask_status(loop, path);
        if (!status) co_return std::unexpected(std::move(status.error()));
        if (!status->is_null()) all.add(*status);
    }
    if (options.home_agent.json) {
        fmt::print("{}\n", all.dump());
        co_return Result<>{};
    }
    for (auto const& one : all.elements()) print_status(one);
    if (all.size() == 0) fmt::print("no home agent runs on this host\n");
    co_return Result<>{};
}

}  // namespace

Task<int> home_agent_command(core::Loop& loop, Options options, std::stop_token terminate) {
    auto const done = options.home_agent.action == HomeAgentCommand::Action::status
                          ? co_await show_status(loop, options)
                          : co_await run_agent(loop, options, std::move(terminate));
    co_return done ? 0 : complain(done.error());
}

}  // namespace sidecar
