#include "tests/process/evpn_lab.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "netmove/bridge_mover.hpp"

namespace evpn_lab {

namespace fs = std::filesystem;

namespace {

constexpr auto start_limit = 60s;
/// A busy machine may make a pause much longer.
constexpr int ring_frames = 20'000;

/// The recipe is written for host 1 with the neighbours 2 and 3.
lab::Changes changes_for(int number) {
    if (number == 1) return {};
    auto const own = fmt::format("10.1.0.{}", number);
    return {{"10.1.0.1", "HOST"}, {own, "10.1.0.1"}, {"HOST", own}};
}

}  // namespace

Vtep::Vtep(Underlay const& underlay, int number) : local(fmt::format("10.1.0.{}", number)) {
    sh(
        fmt::format("ip link add eth0 mtu 1600 type veth peer name p{0} mtu 1600 netns {1}; "
                    "ip link set eth0 up; ip addr add {2}/24 dev eth0",
                    number, underlay.space.path(), local));
    underlay.space.enter();
    sh(fmt::format("ip link set p{0} master sw0; ip link set p{0} up", number));
    space.enter();
    make_bridge("br0");
    sh(
        fmt::format("ip link add vx0 mtu 1500 type vxlan id 42 local {} dstport 4789 nolearning; "
                    "ip link set vx0 addrgenmode none master br0 up; "
                    "bridge link set dev vx0 learning off neigh_suppress on",
                    local));
}

std::string Vtep::guest_place() {
    auto const mac = guest_interface().mac;
    auto const entry = must(netlink.fdb_entry(index("br0"), mac));
    if (!entry) return "";
    auto const device = index("vx0");
    if (entry->port != device) return must(netlink.link(entry->port)).name;
    auto const beyond = must(netlink.vxlan_entry(device, mac));
    return beyond ? beyond->remote.text() : "";
}

std::set<std::string> Vtep::guest_addresses(bool external) {
    std::set<std::string> out;
    for (auto const& entry : must(netlink.neighbours(index("br0")))) {
        if (entry.mac == guest_interface().mac && entry.external == external) {
            out.insert(entry.address.text());
        }
    }
    return out;
}

EvpnHost::EvpnHost(Underlay const& underlay, int number) : Vtep(underlay, number) {
    must(place_tap(netlink, "tap0", {"br0", 1500, ring_frames}));
    REQUIRE(soon([&] { return must(netlink.link("tap0")).port->forwarding(); }));
}

Station::Station(Vtep& vtep) {
    sh(
        fmt::format("ip link add eth0 type veth peer name station netns {}; "
                    "ip link set eth0 addrgenmode none; ip link set eth0 up; "
                    "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad",
                    vtep.space.path(), station_ipv4, station_ipv6));
    vtep.space.enter();
    sh("ip link set station addrgenmode none; ip link set station master br0 up");
    REQUIRE(soon([&] { return must(vtep.netlink.link("station")).port->forwarding(); }));
}

GuestInterface evpn_interface(Vtep& from, Vtep& to) {
    auto out = guest_interface();
    out.routed = false;
    out.bridge = "br0";
    out.vxlan_source = must(vxlan_end(from.netlink, "br0"));
    out.vxlan_destination = must(vxlan_end(to.netlink, "br0"));
    out.evpn = out.vxlan_source->evpn = out.vxlan_destination->evpn = true;
    return out;
}

MoverSet source_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to) {
    auto const interface = evpn_interface(from, to);
    MoverSet out;
    out.add(evpn_mover_source(from.netlink, interface));
    out.add(bridge_mover_source(loop, from.netlink, from.tap, interface));
    return out;
}

MoverSet destination_movers(core::Loop& loop, EvpnHost& from, EvpnHost& to) {
    auto const interface = evpn_interface(from, to);
    MoverSet out;
    out.add(bridge_mover_destination(loop, to.netlink, to.tap, interface));
    out.add(evpn_mover_destination(to.netlink, interface));
    return out;
}

Frr::Frr(int number) {
    // Not where TMPDIR says: the daemons see another /var/tmp, and their sockets need a short path.
    std::string pattern = "/tmp/sidecar-frr-XXXXXX";
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory_ = pattern;
    INFO("scripts/setup unpacks FRR");
    REQUIRE(fs::exists(lab::deps() / "bin" / "vtysh"));
    lab::write_file(directory_ / "empty.conf", "");
    lab::write_file(directory_ / "frr.conf", lab::recipe("frr-evpn.conf", changes_for(number)));
    start("zebra");
    REQUIRE(soon([&] { return fs::exists(directory_ / "zserv.api"); }, start_limit));
    start("bgpd");
    for (auto const* socket : {"zebra.vty", "bgpd.vty"}) {
        REQUIRE(soon([&] { return fs::exists(directory_ / socket); }, start_limit));
    }
    sh(fmt::format("{0}/vtysh --vty_socket {1} --config_dir {1} -f {1}/frr.conf",
                   (lab::deps() / "bin").string(), directory_.string()));
}

void Frr::start(std::string const& program) {
    auto const at = [this](std::string const& name) { return (directory_ / name).string(); };
    std::vector<std::string> words{(lab::deps() / "bin" / program).string(),
                                   "-f",
                                   at("empty.conf"),
                                   "-i",
                                   at(program + ".pid"),
                                   "-z",
                                   at("zserv.api"),
                                   "--vty_socket",
                                   directory_.string(),
                                   "-P",
                                   "0"};
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    auto const log = at(program + ".log");
    auto const pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        int const to = ::open(log.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ::dup2(to, 1);
        ::dup2(to, 2);
        ::execv(arguments[0], arguments.data());
        ::_exit(127);
    }
    pids_.push_back(pid);
}

Frr::~Frr() {
    for (auto const pid : pids_) {
        (void)::kill(pid, SIGKILL);  // our own children, not waited for yet
        (void)::waitpid(pid, nullptr, 0);
    }
    std::error_code ignored;
    fs::remove_all(directory_, ignored);
}

std::string Frr::ask(std::string const& command) const {
    return sh(fmt::format("{0}/vtysh --vty_socket {1} --config_dir {1} -c '{2}'",
                          (lab::deps() / "bin").string(), directory_.string(), command));
}

}  // namespace evpn_lab
