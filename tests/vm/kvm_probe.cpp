#include <catch2/catch.hpp>

#include <signal.h>

#include <algorithm>
#include <iostream>

#include "tests/vm/kvm.hpp"

namespace kvm {

using namespace std::chrono_literals;

namespace {

constexpr char const* probe_period_ms = "50";
constexpr auto probe_end_limit = 30s;
constexpr std::size_t last_words_bytes = 1500;

std::int64_t lost(core::Json const& seen) {
    auto const udp = seen["udp"];
    return udp["there"]["lost"].integer_or(-1) + udp["back"]["lost"].integer_or(-1);
}

}  // namespace

lab::GuestOptions guest() {
    return {
        .qemu = "7.2", .kvm = true, .disk_mib = 256, .rate = 100, .ram_mib = 256, .alive_ms = 1000};
}

std::string last_words(lab::Lab const& lab) {
    std::string text;
    auto const add = [&text](std::string const& name, std::string const& all) {
        if (all.empty()) return;
        text += fmt::format("\n--- {}:\n{}", name,
                            all.substr(all.size() - std::min(all.size(), last_words_bytes)));
    };
    for (auto const* host : {&lab.a(), &lab.b()}) {
        for (auto const& entry : lab::fs::directory_iterator(host->logs)) {
            if (entry.path().extension() == ".err") add(entry.path(), lab::read_file(entry.path()));
        }
    }
    add("dmesg", lab::run({"dmesg"}).out);
    return text;
}

Probe::Probe(lab::Lab const& lab)
    : client_("probe",
              {lab::program("sidecar"), "probe", "--json", "-", "--period", probe_period_ms,
               lab::guest_ip4, lab::guest_ip6},
              {lab.client_netns(), {}}, lab.directory()) {}

std::int64_t Probe::finish() {
    client_.signal(SIGINT);
    REQUIRE(client_.wait(probe_end_limit) == 0);
    std::int64_t all = 0;
    for (auto const& seen : lab::parse_json(client_.out())["addresses"].elements()) {
        INFO(seen.dump());
        REQUIRE(seen["udp"]["answered"].integer_or(0) > 0);
        CHECK(seen["tcp"]["ended"].integer_or(-1) == 0);
        CHECK(seen["tcp"]["wrong"].integer_or(-1) == 0);
        all += lost(seen);
        std::cout << seen["address"].text_or("") << ": " << lost(seen) << " of "
                  << seen["udp"]["sent"].integer_or(0) << " datagrams lost" << std::endl;
    }
    return all;
}

}  // namespace kvm
