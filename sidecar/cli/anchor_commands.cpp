// `sidecar anchor`: shows and releases the anchors of this host, and the far ends of guests whose
// anchor is elsewhere. It asks `serve`, which holds them.
#include <CLI/CLI.hpp>

#include <cstdio>

#include "sidecar/anchor/ask_serve.hpp"
#include "sidecar/cli/commands.hpp"
#include "sidecar/cli/progress.hpp"
#include "sidecar/host/mac_moves.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

std::string age_of(Json const& anchor) {
    constexpr std::int64_t ms_per_minute = 60'000;
    constexpr std::int64_t minutes_per_hour = 60;
    auto const at = anchor["since_ms"].integer_or(0);
    if (at == 0) return "not used yet";
    auto const minutes = (wall_ms() - at) / ms_per_minute;
    return fmt::format("for {} h {:02} min", minutes / minutes_per_hour,
                       minutes % minutes_per_hour);
}

bool is_released(Json const& anchor) { return anchor["state"].text_or("") == "released"; }

/// Its frames pass a VXLAN device of the kernel: whether the other end is there is not known.
bool is_in_kernel(Json const& anchor) { return anchor.has("device"); }

std::string where_text(Json const& anchor) {
    if (is_released(anchor)) return "runs here, and its anchor was released; here";
    bool const far = anchor["end"].text_or("") == "far";
    auto const words = far                                     ? "runs here, its anchor is at"
                       : anchor["state"].text_or("") == "away" ? "runs at"
                                                               : "is about to leave for";
    auto const peer = anchor["peer"].text_or("");
    bool const broken = !is_in_kernel(anchor) && !anchor["connected"].boolean_or(false);
    return fmt::format("{} {}{}", words, peer.empty() ? "(not connected yet)" : peer,
                       broken ? ", NO CONNECTION" : "");
}

bool is_stand_in(Json const& anchor) { return anchor["kind"].text_or("") == "stand_in"; }

void print_anchor_line(Json const& anchor) {
    fmt::print("{:<20}{:<19}{} {}, {}{}\n", anchor["guest"].text_or(""),
               anchor["interface"].text_or(""), anchor["guest"].text_or(""), where_text(anchor),
               age_of(anchor), is_stand_in(anchor) ? "; this host stands in for its home" : "");
}

void print_anchor(Json const& anchor) {
    print_anchor_line(anchor);
    for (auto const& line : local_lines(anchor["local"])) fmt::print("    {}\n", line);
    auto const tunnel = anchor["tunnel"];
    if (is_released(anchor)) return;  // it has none
    if (is_in_kernel(anchor)) {
        auto const device = anchor["device"].text_or("");
        fmt::print("    {} in {}: the kernel carries the frames (`ip -s link show {}`)\n", device,
                   anchor["bridge"].text_or(""), device);
        return;
    }
    auto const number = [&tunnel](std::string_view key) { return tunnel[key].integer_or(0); };
    fmt::print("    tap {} in {}{}\n", anchor["tap"].text_or(""), anchor["bridge"].text_or(""),
               is_stand_in(anchor) ? ", which stands in for the guest's own" : "");
    if (!tunnel.is_object()) return;
    fmt::print("    sent     {} frames, {}\n", number("frames_sent"),
               human_bytes(number("bytes_sent")));
    fmt::print("    received {} frames, {}\n", number("frames_received"),
               human_bytes(number("bytes_received")));
    fmt::print("    dropped  {} incomplete, {} that the tap did not take\n", number("incomplete"),
               number("not_written"));
    fmt::print("    refused  {} unauthenticated, {} replayed, {} malformed datagrams\n",
               number("unauthenticated"), number("replayed"), number("malformed"));
    auto const path = tunnel["path"];
    if (!path.is_object()) return;
    fmt::print("    path     {:.3f} ms round trip, datagrams of {} bytes pass\n",
               path["round_trip_ms"].number_or(0), path["datagram_max"].integer_or(0));
}

Task<Result<>> show_anchors(core::Loop& loop, Options const& options) {
    auto const& chosen = options.anchor;
    CO_TRY(auto const answer, co_await ask_serve(loop, options.paths, protocol::AnchorList{},
                                                 Deadline::after(limits::anchor_answer_timeout)));
    Json all = Json::array();
    for (auto const& one : answer.json["anchors"].elements()) {
        if (chosen.guest.empty() || one["guest"].text_or("") == chosen.guest) all.add(one);
    }
    if (all.size() == 0 && !chosen.guest.empty()) {
        co_return fail(Errc::refused, "there is no anchor of {} on this host", chosen.guest);
    }
    if (chosen.json) fmt::print("{}\n", all.dump());
    for (auto const& one : all.elements()) {
        if (chosen.json) break;
        chosen.action == AnchorOptions::Action::show ? print_anchor(one) : print_anchor_line(one);
    }
    if (all.size() == 0 && !chosen.json) fmt::print("no anchors on this host\n");
    co_return Result<>{};
}

Task<Result<>> release_anchor(core::Loop& loop, Options const& options) {
    auto const& chosen = options.anchor;
    CO_TRY_VOID(co_await ask_serve(loop, options.paths,
                                   protocol::AnchorRelease{chosen.guest, chosen.force},
                                   Deadline::after(limits::anchor_answer_timeout)));
    fmt::print("the anchor of {} is released\n", chosen.guest);
    co_return Result<>{};
}

}  // namespace

std::vector<std::string> local_lines(Json const& local) {
    constexpr std::int64_t ms_per_minute = 60'000;
    if (!local.is_object()) return {};
    std::string addresses;
    for (auto const& one : local["addresses"].elements()) addresses += " " + one.text_or("");
    bool const new_ones = local["new_sessions"].boolean_or(false);
    auto const home = local["home_sessions"].integer_or(0);
    auto const ended = local["home_ended_ms"].integer_or(0);
    std::vector<std::string> lines;
    lines.push_back(fmt::format(
        "local   {}{}{}", addresses, new_ones ? ", used by its new sessions" : "",
        local["in_use"].boolean_or(false) ? "" : ", NOT IN USE: see the log of `sidecar serve`"));
    auto const last = ended == 0 ? ""
                                 : fmt::format(", the last ended {} min ago",
                                               (wall_ms() - ended) / ms_per_minute);
    lines.push_back(fmt::format("sessions {} through its home{}, {} direct", home, last,
                                local["direct_sessions"].integer_or(0)));
    auto const release = local["release"];
    auto const state = release["state"].text_or("");
    auto const waits = release["waits"].text_or("");
    if (state == "released") {
        lines.push_back(
            fmt::format("anchor   released {} min ago: this host answers for the "
                        "guest's gateway at home",
                        (wall_ms() - release["at_ms"].integer_or(0)) / ms_per_minute));
    } else if (!state.empty()) {
        lines.push_back(fmt::format("anchor   to be released: {}", waits.empty() ? "soon" : waits));
    }
    return lines;
}

void AnchorFlags::add_to(CLI::App& anchor) {
    anchor.require_subcommand(1);
    list_ = anchor.add_subcommand("list", "The anchors of this host, one line each");
    show_ = anchor.add_subcommand("show", "What the anchor of one guest carries");
    release_ = anchor.add_subcommand("release", "End an anchor; the guest loses its network");
    for (auto* command : {show_, release_}) {
        command->add_option("GUEST", options_.guest, "The guest's name")->required();
    }
    for (auto* command : {list_, show_}) command->add_flag("--json", options_.json, "As JSON");
    release_->add_flag("--force", options_.force, "Also while the guest runs through it");
}

Result<AnchorOptions> AnchorFlags::finish() const {
    auto made = options_;
    if (show_->parsed()) made.action = AnchorOptions::Action::show;
    if (release_->parsed()) made.action = AnchorOptions::Action::release;
    if (!made.guest.empty()) TRY_VOID(check_guest_name(made.guest));
    return made;
}

Task<int> anchor_command(core::Loop& loop, Options options) {
    auto const done = options.anchor.action == AnchorOptions::Action::release
                          ? co_await release_anchor(loop, options)
                          : co_await show_anchors(loop, options);
    co_return done ? 0 : complain(done.error());
}

}  // namespace sidecar
