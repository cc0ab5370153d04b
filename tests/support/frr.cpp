#include "tests/support/frr.hpp"

#include <stdlib.h>

namespace lab {

namespace {

constexpr Milliseconds frr_start_limit = 60s;

}  // namespace

Changes frr_changes(int number, std::string const& subnet) {
    Changes out;
    if (number != 1) {
        auto const own = fmt::format("10.1.0.{}", number);
        out = {{"10.1.0.1", "HOST"}, {own, "10.1.0.1"}, {"HOST", own}};
    }
    if (subnet != "10.1.0") out.emplace_back("10.1.0.", subnet + ".");
    return out;
}

Frr::Frr(std::string const& netns, Changes const& changes) : netns_(netns) {
    // Not where TMPDIR says: the daemons see another /var/tmp, and their sockets need a short path.
    std::string pattern = "/tmp/sidecar-frr-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw Failure("no directory for FRR in /tmp");
    directory_ = pattern;
    if (!fs::exists(deps() / "bin" / "vtysh")) throw Failure("scripts/setup has not unpacked FRR");
    write_file(directory_ / "empty.conf", "");
    write_file(directory_ / "frr.conf", recipe("frr-evpn.conf", changes));
    start("zebra");
    wait_until("zebra to listen", frr_start_limit,
               [&] { return fs::exists(directory_ / "zserv.api"); });
    start("bgpd");
    for (auto const* socket : {"zebra.vty", "bgpd.vty"}) {
        wait_until("FRR to listen", frr_start_limit,
                   [&] { return fs::exists(directory_ / socket); });
    }
    must_run(vtysh({"-f", directory_ / "frr.conf"}), {netns_, {}});
}

void Frr::start(std::string const& program) {
    daemons_.emplace_back(program,
                          Argv{deps() / "bin" / program, "-f", directory_ / "empty.conf", "-i",
                               directory_ / (program + ".pid"), "-z", directory_ / "zserv.api",
                               "--vty_socket", directory_, "-P", "0"},
                          Place{netns_, {}}, directory_);
}

Argv Frr::vtysh(Argv const& more) const {
    Argv out{deps() / "bin" / "vtysh", "--vty_socket", directory_, "--config_dir", directory_};
    out.insert(out.end(), more.begin(), more.end());
    return out;
}

Frr::~Frr() {
    daemons_.clear();
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
}

std::string Frr::ask(std::string const& command) const {
    return must_run(vtysh({"-c", command}), {netns_, {}});
}

}  // namespace lab
