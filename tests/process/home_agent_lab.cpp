#include "tests/process/home_agent_lab.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>

namespace home_agent_lab {

namespace {

constexpr auto answer_limit = 30s;

constexpr char const* agent_ipv4 = "198.51.100.1";
constexpr char const* ipv4_care_of = "10.0.0.10";

core::Fd connect_to(lab::fs::path const& path) {
    core::Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    REQUIRE(path.string().size() < sizeof name.sun_path);
    std::ranges::copy(path.string(), name.sun_path);
    if (::connect(socket.get(), reinterpret_cast<sockaddr const*>(&name), sizeof name) < 0) {
        return {};
    }
    return socket;
}

std::string ask(core::Fd const& socket, std::string const& line) {
    REQUIRE(::write(socket.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size()));
    std::string answer;
    auto const end = std::chrono::steady_clock::now() + answer_limit;
    while (!answer.ends_with('\n') && std::chrono::steady_clock::now() < end) {
        pollfd wait{socket.get(), POLLIN, 0};
        if (::poll(&wait, 1, 1000) <= 0) continue;
        char part[4096];
        auto const got = ::read(socket.get(), part, sizeof part);
        if (got <= 0) break;
        answer.append(part, static_cast<std::size_t>(got));
    }
    return answer;
}

}  // namespace

HomeNetwork::HomeNetwork(Visited visited) : visited_(visited) {
    std::string pattern = (lab::fs::temp_directory_path() / "sidecar-agent-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    auto const from = visited == Visited::ipv6   ? "from 2001:db8:2::/64"
                      : visited == Visited::ipv4 ? "from 10.0.0.0/24"
                                                 : "from 198.51.100.0/24";
    write_configuration(
        fmt::format("# one mobile node\n{} ipv4 {} {}\n", home_address, ipv4_home, from));
    make_links();
    if (visited != Visited::ipv6) make_ipv4_links();
    start_node();
}

void HomeNetwork::start_node() {
    lab::Argv argv{"/usr/bin/python3",
                   lab::fs::path(LAB_SOURCE_DIRECTORY) / "tests/process/mobile_node.py",
                   directory_ / "node.sock",
                   "up0",
                   home_address,
                   agent_address};
    if (visited_ != Visited::ipv6) argv.insert(argv.end(), {ipv4_care_of, agent_ipv4});
    node_.enter();
    mobile_node_.emplace("mobile-node", std::move(argv), lab::Place{}, directory_);
    agent_.enter();
    bool const runs = soon([this] { return bool(connect_to(directory_ / "node.sock")); }, 60s);
    INFO(mobile_node_->err());
    REQUIRE(runs);
}

HomeNetwork::~HomeNetwork() {
    if (daemon_ && daemon_->running()) daemon_->kill();
    if (mobile_node_ && mobile_node_->running()) mobile_node_->kill();
    std::error_code ignored;  // there is no one to report it to
    lab::fs::remove_all(directory_, ignored);
}

std::string HomeNetwork::in(Space const& where, std::string const& command) const {
    where.enter();
    auto out = sh(command);
    agent_.enter();
    return out;
}

void HomeNetwork::write_configuration(std::string const& text) const {
    lab::write_file(directory_ / "home-addresses", text);
}

/// Addresses without duplicate address detection, so that they are there at once.
void HomeNetwork::make_links() {
    in(agent_, fmt::format("ip link add home0 type veth peer name eth0 netns {}; "
                           "ip link add out0 type veth peer name in0 netns {}; "
                           "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1; "
                           "ip link set home0 up; ip link set out0 up; "
                           "ip addr add 2001:db8:1::1/64 dev home0 nodad; "
                           "ip addr add 192.0.2.1/24 dev home0; "
                           "ip addr add 2001:db8:3::1/64 dev out0 nodad; "
                           "ip route add 2001:db8:2::/64 via 2001:db8:3::2",
                           correspondent_.path(), middle_.path()));
    in(middle_, fmt::format("ip link add visited0 type veth peer name up0 netns {}; "
                            "sysctl -qw net.ipv6.conf.all.forwarding=1; "
                            "ip link set in0 up; ip link set visited0 up; "
                            "ip addr add 2001:db8:3::2/64 dev in0 nodad; "
                            "ip addr add 2001:db8:2::1/64 dev visited0 nodad; "
                            "ip route add default via 2001:db8:3::1",
                            node_.path()));
    in(correspondent_,
       "ip link set eth0 up; ip addr add 2001:db8:1::2/64 dev eth0 nodad; "
       "ip addr add 192.0.2.2/24 dev eth0; ip route add default via 2001:db8:1::1; "
       "ip route add default via 192.0.2.1");
    in(node_,
       fmt::format("ip link set up0 up; ip addr add {}/64 dev up0 nodad; ip addr add {}/64 dev up0 "
                   "nodad; ip route add default via 2001:db8:2::1; "
                   "nft 'table ip6 node {{ chain receive {{ type filter hook prerouting priority "
                   "raw; ip6 nexthdr {{ 4, 41, 43, 44 }} drop; }}; }}'",
                   care_of, other_care_of));
    agent_.enter();
    REQUIRE(soon([] { return sh("ip -o link show up dev home0").contains("LOWER_UP"); }));
}

void HomeNetwork::make_ipv4_links() {
    on_agent(fmt::format("ip addr add {}/24 dev out0", agent_ipv4));
    on_middle(
        "sysctl -qw net.ipv4.ip_forward=1; ip addr add 198.51.100.2/24 dev in0; "
        "ip addr add 10.0.0.1/24 dev visited0");
    on_node(
        fmt::format("ip addr flush dev up0 scope global; ip addr add {}/24 dev up0; "
                    "ip route add default via 10.0.0.1",
                    ipv4_care_of));
    if (visited_ == Visited::ipv4) {
        on_agent("ip route add 10.0.0.0/24 via 198.51.100.2");
    } else {
        on_middle(
            "nft 'table ip nat { chain out { type nat hook postrouting priority srcnat; "
            "oifname in0 masquerade; }; }'");
    }
}

std::vector<std::string> HomeNetwork::run_words() const {
    std::vector<std::string> words{"--link",    "home0",
                                   "--address", std::string(agent_address) + "/64",
                                   "--config",  directory_ / "home-addresses"};
    if (visited_ != Visited::ipv6) words.insert(words.end(), {"--ipv4-address", agent_ipv4});
    words.emplace_back("--plaintext");
    return words;
}

std::vector<std::string> HomeNetwork::directories() const {
    return {"--state-dir", directory_ / "state", "--run-dir", directory_ / "run"};
}

lab::Output HomeNetwork::command(std::vector<std::string> words) const {
    words.insert(words.begin(), {lab::program("sidecar"), "home-agent"});
    auto const more = directories();
    words.insert(words.end(), more.begin(), more.end());
    return lab::run(std::move(words));
}

void HomeNetwork::start() {
    auto words = run_words();
    words.insert(words.begin(), {lab::program("sidecar"), "home-agent"});
    auto const more = directories();
    words.insert(words.end(), more.begin(), more.end());
    daemon_.emplace("home-agent", std::move(words), lab::Place{}, directory_);
    auto const answers = [this] {
        return lab::parse_json(command({"status", "--json"}).out).size() == 1;
    };
    bool const ready = soon([&] { return !daemon_->running() || answers(); }, 20s);
    INFO(daemon_->err());
    REQUIRE(ready);
    REQUIRE(daemon_->running());
}

void HomeNetwork::end() {
    auto const status = daemon_->end();
    INFO(daemon_->err());
    CHECK(status == 0);
}

Json HomeNetwork::status() const {
    auto const shown = command({"status", "--json"});
    INFO(shown.err);
    REQUIRE(shown.exit_status == 0);
    auto const all = lab::parse_json(shown.out);
    REQUIRE(all.size() == 1);
    return all.elements().at(0);
}

Json HomeNetwork::binding() const {
    for (auto const& one : status()["bindings"].elements()) {
        if (one["home"].text_or("") == home_address) return one;
    }
    return {};
}

std::int64_t HomeNetwork::dropped(std::string const& why) const {
    return status()["dropped"][why].integer_or(-1);
}

Json HomeNetwork::node(Json const& command) const {
    auto const socket = connect_to(directory_ / "node.sock");
    REQUIRE(socket);
    auto const answer = ask(socket, command.dump() + "\n");
    INFO(mobile_node_->err());
    REQUIRE(answer.ends_with('\n'));
    return lab::parse_json(answer);
}

Answer HomeNetwork::update(int sequence, int lifetime, Json more) const {
    Json command = Json::object(
        {{"do", "update"}, {"care_of", care_of}, {"sequence", sequence}, {"lifetime", lifetime}});
    for (auto const& [key, value] : more.members()) command.set(key, value);
    return read_answer(node(command));
}

Answer HomeNetwork::update4(int sequence, int lifetime) const {
    return read_answer(
        node(Json::object({{"do", "update4"}, {"sequence", sequence}, {"lifetime", lifetime}})));
}

Answer HomeNetwork::read_answer(Json const& json) const {
    INFO(json.dump());
    Answer answer;
    answer.json = json;
    if (json["message"].text_or("") != "acknowledgement") return answer;
    CHECK(json["checksum_right"].boolean_or(false));
    answer.status = static_cast<int>(json["status"].integer_or(-1));
    answer.sequence = static_cast<int>(json["sequence"].integer_or(-1));
    answer.lifetime = static_cast<int>(json["lifetime"].integer_or(-1));
    answer.routing_home = json["routing_home"].text_or("");
    answer.after_ms = json["after_ms"].number_or(-1);
    answer.ipv4_status = static_cast<int>(json["ipv4_status"].integer_or(-1));
    return answer;
}

void HomeNetwork::is_bound_at(std::string const& where) const {
    bool const is = soon([&] { return binding()["care_of"].text_or("") == where; }, 10s);
    INFO(binding().dump());
    CHECK(is);
}

int HomeNetwork::pings(std::string const& to, int count, std::string const& options) const {
    auto const out =
        on_correspondent(fmt::format("ping -c {} -i 0.2 -W 2 {} {} || true", count, options, to));
    INFO(out);
    auto const at = out.find(" received");
    REQUIRE(at != std::string::npos);
    auto const begin = out.rfind(' ', at - 1);
    return std::atoi(out.c_str() + begin);
}

}  // namespace home_agent_lab
