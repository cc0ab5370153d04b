// A network card whose link is down has no link at the destination either, until it is set up
// there. Seen from QEMU's side: it announces a card through its tap only if the card's link is up.
#include "sidecar/guest/card_links.hpp"

#include "tests/process/move_lab.hpp"
#include "tests/support/qmp_probe.hpp"

namespace card_links_cases {

using namespace move_lab;
using core::Json;

namespace {

/// More than our own announcements of a guest that has arrived.
constexpr std::uint64_t announcements = 60;

struct Card {
    std::string name;  ///< Also of its tap; its netdev is "net-NAME".
    std::string kind;
    bool up = false;
    std::string set_by = {};  ///< What `set_link` names: the card, or its netdev.
};

std::vector<Card> const cards{{"up0", "virtio-net-pci", true},
                              {"up1", "pcnet", true},
                              {"virtio0", "virtio-net-pci", false, "virtio0"},
                              {"virtio1", "virtio-net-pci", false, "net-virtio1"},
                              {"e0", "e1000", false, "e0"},
                              {"rtl0", "rtl8139", false, "net-rtl0"},
                              {"pcnet0", "pcnet", false, "pcnet0"},
                              {"pcnet1", "pcnet", false, "net-pcnet1"},
                              {"vmxnet0", "vmxnet3", false, "vmxnet0"}};

Argv options_of(std::vector<Card> const& all) {
    Argv words;
    int number = 0x20;
    for (auto const& card : all) {
        words.insert(
            words.end(),
            {"-netdev",
             fmt::format("tap,id=net-{0},ifname={0},script=no,downscript=no,vhost=off", card.name),
             "-device",
             fmt::format("{1},netdev=net-{0},id={0},romfile=,mac=52:54:00:10:00:{2:02x}", card.name,
                         card.kind, number++)});
    }
    return words;
}

std::uint64_t frames_of(MoveHost const& host, std::string const& tap) {
    lab::Visit const visit(host.netns);
    auto netlink = must(netmove::Netlink::open());
    return must(netlink.link(tap)).received;
}

/// Whether frames of the card reach its tap.
bool link_is_up(MoveHost const& host, lab::Qmp& qmp, std::string const& card) {
    auto const before = frames_of(host, card);
    for (std::uint64_t count = 0; count < announcements; ++count) {
        qmp.execute("announce-self", Json::object({{"initial", 1},
                                                   {"max", 1},
                                                   {"rounds", 1},
                                                   {"step", 0},
                                                   {"interfaces", Json::array({card})},
                                                   {"id", "test"}}));
    }
    return frames_of(host, card) - before >= announcements;
}

void links_arrive(std::string const& from, std::string const& to) {
    auto const qemus = storage_lab::qemus();
    if (!qemus.contains(from) || !qemus.contains(to)) return;
    storage_lab::Directory const directory;
    auto const socket = directory.path("qmp");
    auto const there = directory.path("there");
    MoveLab lab{MoveLab::Empty()};
    lab.start_serve(lab.a);
    lab.start_serve(lab.b, {"--qemu", qemus.at(to), "--allow-path", directory.text(), "--map-path",
                            socket + "=" + there});
    lab.a.qemu = qemus.at(from);
    auto words = options_of(cards);
    words.insert(words.end(), {"-qmp", "unix:" + socket + ",server=on,wait=off"});
    lab.a.start_guest(words);
    {
        lab::Qmp qmp(socket);
        for (auto const& card : cards) {
            INFO(card.name);
            CHECK(link_is_up(lab.a, qmp, card.name));
            if (card.up) continue;
            qmp.execute("set_link", Json::object({{"name", card.set_by}, {"up", false}}));
            CHECK_FALSE(link_is_up(lab.a, qmp, card.name));
        }
    }
    auto const moved = lab.a.migrate(lab.b, {"--network", "anchor"});
    INFO(moved.out << moved.err);
    REQUIRE(moved.exit_status == 0);
    lab::Qmp qmp(there);
    for (auto const& card : cards) {
        INFO(card.name);
        CHECK(link_is_up(lab.b, qmp, card.name) == card.up);
        qmp.execute("set_link", Json::object({{"name", card.name}, {"up", true}}));
        CHECK(link_is_up(lab.b, qmp, card.name));
    }
}

}  // namespace

TEST_CASE("card links: those that are down arrive so, QEMU 7.2", "[migrate][link]") {
    links_arrive("7.2", "7.2");
}
TEST_CASE("card links: those that are down arrive so, QEMU 10.0", "[migrate][link]") {
    links_arrive("10.0", "10.0");
}
TEST_CASE("card links: those that are down arrive so, QEMU 7.2 to 10.0", "[migrate][link]") {
    links_arrive("7.2", "10.0");
}

}  // namespace card_links_cases
