// `sidecar home-agent` as an administrator uses it: its checks before anything is touched, its
// configuration, its status.
#include "sidecar/cli/home_agent_options.hpp"
#include "tests/process/home_agent_lab.hpp"

namespace home_agent_commands_cases {

using namespace home_agent_lab;

namespace {

std::vector<std::string> operator+(std::vector<std::string> words,
                                   std::vector<std::string> const& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

/// The same words with another value of an option.
std::vector<std::string> with_value(std::vector<std::string> words, std::string const& option,
                                    std::string const& value) {
    auto const at = std::ranges::find(words, option);
    REQUIRE(at != words.end());
    *(at + 1) = value;
    return words;
}

std::string everything(HomeNetwork const& network) {
    return network.on_agent(
        "ip -o link; ip -o addr show scope global; ip -6 route; ip route; nft list ruleset");
}

void is_refused(HomeNetwork const& network, std::vector<std::string> const& words,
                std::string const& reason, int status = 3) {
    INFO(reason);
    auto const before = everything(network);
    auto const done = network.command(words);
    INFO(done.err);
    CHECK(done.exit_status == status);
    CHECK(contains(done.err, "error: "));
    CHECK(contains(done.err, reason));
    CHECK(everything(network) == before);
}

}  // namespace

TEST_CASE("home-agent: refused before anything is touched", "[home-agent]") {
    HomeNetwork network;
    auto const words = network.run_words();
    auto const checked = network.command(words + std::vector<std::string>{"--check"});
    INFO(checked.err);
    CHECK(checked.exit_status == 0);
    CHECK(contains(checked.out, "a home agent can run here, for 1 home addresses"));

    is_refused(network, with_value(words, "--link", "home9"),
               "there is no network interface home9");
    is_refused(network, with_value(words, "--address", "2001:db8:1::9/64"),
               "2001:db8:1::9/64 is not an address of home0");
    is_refused(network, with_value(words, "--address", "2001:db8:1::1/48"),
               "is not an address of home0");
    is_refused(network, with_value(words, "--address", "192.0.2.1/24"), "IPv6 address", 2);
    is_refused(network, words + std::vector<std::string>{"--ipv4-address", "192.0.2.9"},
               "192.0.2.9 is not an address of this host");
    auto plain = words;
    plain.pop_back();
    is_refused(network, plain, "--plaintext", 2);
    is_refused(network, {"--link", "home0"}, "needs --link, --address and --config", 2);

    network.write_configuration("2001:db8:1::100\n2001:db8:1::100\n");
    is_refused(network, words, "2001:db8:1::100 is in line 1 already", 2);
    network.write_configuration("2001:db8:7::100\n");
    is_refused(network, words, "2001:db8:7::100", 2);
    network.write_configuration("# nothing\n");
    is_refused(network, words, "the configuration is empty", 2);
    network.write_configuration("2001:db8:1::100 ipv4 198.51.100.7\n");
    is_refused(network, words, "198.51.100.7 is in no network of home0");
    network.write_configuration("2001:db8:1::100\n");
    network.on_agent("ip link set home0 down");
    is_refused(network, words, "home0 is down");
    network.on_agent("ip link set home0 up; ip addr replace 2001:db8:1::1/64 dev home0 nodad");
    network.on_agent("sysctl -qw net.ipv6.conf.all.forwarding=0");
    is_refused(network, words, "this host does not forward IPv6");
    network.on_agent("sysctl -qw net.ipv6.conf.all.forwarding=1");
    auto argv = words;
    argv.insert(argv.begin(), {"setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw",
                               lab::program("sidecar"), "home-agent"});
    auto const unprivileged = lab::run(argv);
    INFO(unprivileged.err);
    CHECK(unprivileged.exit_status == 3);
    CHECK(contains(unprivileged.err, "without CAP_NET_RAW"));

    network.start();
    is_refused(network, words, "another home agent for home0 is running");
}

TEST_CASE("home-agent: the status for people", "[home-agent]") {
    HomeNetwork network;
    CHECK(network.command({"status"}).out == "no home agent runs on this host\n");
    network.start();
    REQUIRE(network.update(1, 15).status == 0);
    auto const shown = network.command({"status"}).out;
    INFO(shown);
    CHECK(contains(shown, "home0: home agent 2001:db8:1::1/64"));
    CHECK(contains(shown, "at 2001:db8:2::10"));
    CHECK(contains(shown, "1 accepted"));
    network.kill();
    CHECK(soon(
        [&] { return network.command({"status"}).out == "no home agent runs on this host\n"; }));
}

TEST_CASE("home-agent: the configuration, line by line", "[home-agent]") {
    auto const parsed = must(sidecar::parse_permissions(
        "# who\n\n2001:db8:1::100 # a comment\n"
        "2001:db8:1::101 ipv4 192.0.2.101 from 2001:db8:2::/48 from 198.51.100.0/24\n",
        "FILE"));
    REQUIRE(parsed.size() == 2);
    CHECK(parsed[0].home == ip("2001:db8:1::100"));
    CHECK_FALSE(parsed[0].ipv4_home);
    CHECK(parsed[1].ipv4_home == ip("192.0.2.101"));
    REQUIRE(parsed[1].care_of_prefixes.size() == 2);
    CHECK(parsed[1].care_of_prefixes[0] == std::pair(ip("2001:db8:2::"), 48));
    auto const refused = [](std::string const& line) {
        return sentence(sidecar::parse_permissions("\n" + line + "\n", "FILE"));
    };
    CHECK(contains(refused("fe80::1"), "line 2 of FILE"));
    CHECK(contains(refused("192.0.2.1"), "IPv6 address of one host"));
    CHECK(contains(refused("2001:db8:1::100 ipv4"), "something is missing"));
    CHECK(contains(refused("2001:db8:1::100 key x"), "`key` is not known"));
    CHECK(contains(refused("2001:db8:1::100 ipv4 ff02::1"), "IPv4 home address"));
    CHECK(contains(refused("2001:db8:1::100 from 2001:db8::"), "2001:db8::"));
}

}  // namespace home_agent_commands_cases
