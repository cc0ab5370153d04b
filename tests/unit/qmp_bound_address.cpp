// The addresses on which a command line makes QEMU listen, and the same line for a host that has
// others.
#include "qmp/bound_address.hpp"

#include <catch2/catch.hpp>

namespace qmp_bound_address_cases {

using namespace qmp;

namespace {

CommandLine parsed(std::vector<std::string> words) {
    words.insert(words.begin(), "/usr/bin/qemu-system-x86_64");
    return CommandLine::parse(words).value();
}

/// "tcp HOST FIRST-LAST" for each.
std::vector<std::string> listens(std::vector<std::string> const& words) {
    std::vector<std::string> texts;
    for (auto const& one : bound_addresses(parsed(words))) {
        texts.push_back(fmt::format("{} {} {}-{}", one.udp ? "udp" : "tcp", one.host,
                                    one.first_port, one.last_port));
    }
    return texts;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("addresses on which QEMU listens are found in each option that names one",
          "[qmp][addresses]") {
    CHECK(listens({"-vnc", "10.9.0.1:7"}) == Texts{"tcp 10.9.0.1 5907-5907"});
    CHECK(listens({"-vnc", ":1,to=9"}) == Texts{"tcp  5901-5909"});
    CHECK(listens({"-vnc", "[2001:db8::1]:2,websocket=on"}) ==
          Texts{"tcp 2001:db8::1 5902-5902", "tcp 2001:db8::1 5702-5702"});
    CHECK(listens({"-vnc", "127.0.0.1:0,websocket=8080"}) ==
          Texts{"tcp 127.0.0.1 5900-5900", "tcp 127.0.0.1 8080-8080"});
    CHECK(listens({"-vnc", "none"}).empty());
    CHECK(listens({"-vnc", "unix:/run/vnc.sock"}).empty());
    CHECK(listens({"-vnc", "10.9.0.1:99999"}).empty());
    CHECK(listens({"-spice", "addr=10.9.0.1,port=5930,tls-port=5931,disable-ticketing=on"}) ==
          Texts{"tcp 10.9.0.1 5930-5930", "tcp 10.9.0.1 5931-5931"});
    CHECK(listens({"-spice", "unix=on,addr=/run/spice.sock"}).empty());
    CHECK(listens({"-netdev",
                   "user,id=n0,hostfwd=tcp:10.9.0.1:2222-:22,hostfwd=udp::53-10.0.2.3:53"}) ==
          Texts{"tcp 10.9.0.1 2222-2222", "udp  53-53"});
    CHECK(listens({"-nic", "user,hostfwd=tcp::2222-:22"}) == Texts{"tcp  2222-2222"});
    CHECK(listens({"-netdev",
                   R"({"type":"user","id":"n0","hostfwd":[{"str":"tcp:127.0.0.1:80-:80"}]})"}) ==
          Texts{"tcp 127.0.0.1 80-80"});
    CHECK(listens({"-netdev", "user,id=n0,hostfwd=nonsense"}).empty());
}

TEST_CASE("a mapped address replaces the source's in each option, and nothing else changes",
          "[qmp][addresses]") {
    Texts const words{
        "-vnc",    "10.9.0.1:7,to=9",
        "-spice",  "port=5930,addr=10.9.0.1",
        "-netdev", "user,id=n0,hostfwd=tcp:10.9.0.1:2222-:22,hostfwd=tcp:10.9.0.2:23-:23",
        "-append", "ip=10.9.0.1:7"};
    Mapping mapping;
    mapping.machine_type = "pc-i440fx-7.2";
    mapping.addresses = {{"10.9.0.1", "10.9.0.5"}};
    auto const mapped = parsed(words).for_destination(mapping).value().argv();
    auto const has = [&](std::string const& word) {
        return std::ranges::find(mapped, word) != mapped.end();
    };
    CHECK(has("10.9.0.5:7,to=9"));
    CHECK(has("port=5930,addr=10.9.0.5"));
    CHECK(has("user,id=n0,hostfwd=tcp:10.9.0.5:2222-:22,hostfwd=tcp:10.9.0.2:23-:23"));
    CHECK(has("ip=10.9.0.1:7"));
    CHECK(map_bound_address({{"10.9.0.1", "2001:db8::5"}}, "vnc", "address", "10.9.0.1:7") ==
          "[2001:db8::5]:7");
    CHECK(map_bound_address({{"2001:DB8::1", "::1"}}, "vnc", "address", "[2001:db8::1]:7") ==
          "[::1]:7");
    CHECK(map_bound_address({{"10.9.0.1", "10.9.0.5"}}, "vnc", "address", "localhost:7") ==
          "localhost:7");
}

}  // namespace qmp_bound_address_cases
