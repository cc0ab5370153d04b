#include "tests/support/watch.hpp"

namespace lab {

namespace {

constexpr Milliseconds first_answers_limit = 30s;
constexpr int sessions_hz = 100;

Argv watch_line(Guest const& guest, int udp_hz) {
    Argv argv{program("witness-client"), "watch", "--json", "--seconds", "3600", "--udp-hz",
              std::to_string(udp_hz)};
    if (guest.options().ipv4) argv.insert(argv.end(), {"--ip4", guest_ip4});
    if (guest.options().ipv6) argv.insert(argv.end(), {"--ip6", guest_ip6});
    return argv;
}

}  // namespace

Watch::Watch(Lab const& lab, Guest const& guest, int udp_hz)
    : client_("watch-" + unique_suffix(), watch_line(guest, udp_hz), {lab.client_netns(), {}},
              lab.directory()) {
    wait_until("the first answers to the client", first_answers_limit, [&] {
        if (auto const ended = client_.wait(0ms)) throw Failure("watch ended: " + client_.err());
        return client_.err().find("watching") != std::string::npos;
    });
}

Watch Watch::of_sessions(Lab const& lab, Guest const& guest) {
    (void)guest.ask(core::Json::object({{"cmd", "rate"}, {"tcp_rate", sessions_hz}}));
    return {lab, guest, sessions_hz};
}

core::Json Watch::finish() {
    if (int const status = client_.end(); status != 0) {
        throw Failure(fmt::format("watch ended with {}: {}", status, client_.err()));
    }
    return parse_json(client_.out());
}

void must_have_kept_sessions(core::Json const& seen, GuestOptions const& guest) {
    auto const check = [&](char const* family) {
        auto const one = seen[family];
        bool const kept =
            one["tcp_sessions"].integer_or(0) == 2 && one["tcp_resets"].integer_or(-1) == 0 &&
            one["tcp_mismatches"].integer_or(-1) == 0 && one["tcp_records"].integer_or(0) > 0;
        if (!kept) throw Failure(fmt::format("{} sessions: {}", family, one.dump()));
    };
    if (guest.ipv4) check("ipv4");
    if (guest.ipv6) check("ipv6");
}

}  // namespace lab
