// netmove/mobile_ipv6/ and scapy read each other. scapy makes each packet again from the fields
// that it has read, with lengths, padding and checksums of its own: the result must be the same
// bytes. It does not know RFC 5555's options, which are type and bytes to it.
#include <catch2/catch.hpp>
#include <map>

#include "tests/process/mobile_ipv6_samples.hpp"

namespace mobile_ipv6_scapy_cases {

namespace {

using namespace mobile;

constexpr auto python = "/usr/bin/python3";  // Debian's packages are for this one
constexpr int no_scapy = 77;

/// Reads packets, one a line, and writes JSON: `read`, each as a text and made again; `made`,
/// packets of its own by name; `joined`, the packet whose fragments are in the second file.
constexpr auto script = R"python(
import json, sys
try:
    from scapy.all import IP, UDP, NoPayload, Raw
    from scapy.layers.inet6 import *
except ImportError:
    sys.exit(77)

HOME, AGENT, CARE_OF = "2001:db8:1::100", "2001:db8:1::1", "2001:db8:2::1"

def text(packet):
    words = []
    for layer in packet.layers():
        one = packet[layer]
        if layer is IPv6: words += [one.src, one.dst]
        if layer is IPv6ExtHdrDestOpt: words += [o.hoa for o in one.options if isinstance(o, HAO)]
        if layer is IPv6ExtHdrRouting: words += [f"{one.type} {one.segleft}"] + one.addresses
        if layer is MIP6MH_BU:
            words += ["BU", one.seq, int(one.flags) << 9 | one.reserved, one.mhtime]
        if layer is MIP6MH_BA:
            words += ["BA", one.status, int(one.flags) << 5 | one.res2, one.seq, one.mhtime]
        if layer is MIP6MH_BE: words += ["BE", one.status, one.ha]
        if layer is MIP6MH_BRR: words += ["BRR"]
        if layer is MIP6MH_Generic: words += ["type", one.mhtype]
        if "MIP6MH" not in layer.__name__: continue
        for option in getattr(one, "options", []):
            if isinstance(option, MIP6OptAltCoA): words += ["care-of", option.acoa]
            if isinstance(option, MIP6OptBRAdvice): words += ["advice", option.rinter]
            if isinstance(option, MIP6OptUnknown): words += [option.otype, option.odata.hex()]
    return " ".join(str(word) for word in words)

def again(packet):
    made = None
    while packet and not isinstance(packet, NoPayload):
        layer = packet.copy()
        layer.remove_payload()
        for name in ("plen", "len", "cksum", "chksum", "ihl"):
            layer.fields.pop(name, None)
        if "options" in layer.fields and not isinstance(layer, IP):
            layer.options = [o for o in layer.options if not isinstance(o, (Pad1, PadN))]
        made = layer if made is None else made / layer
        packet = packet.payload
    return bytes(made).hex()

def packets(name):
    for line in open(name):
        data = bytes.fromhex(line)
        yield IPv6(data) if data[0] >> 4 == 6 else IP(data)

unknown = lambda kind, data: MIP6OptUnknown(otype=kind, odata=bytes.fromhex(data))
to_agent = lambda: IPv6(src=CARE_OF, dst=AGENT)
option = lambda: IPv6ExtHdrDestOpt(options=[HAO(hoa=HOME)])
to_home = lambda: IPv6(src=AGENT, dst=CARE_OF) / IPv6ExtHdrRouting(type=2, addresses=[HOME])
payload = Raw(bytes(range(256)) * 8)
inner = IPv6(src=HOME, dst="2001:db8:9::9", hlim=63) / UDP(sport=1, dport=2) / payload
ipv4 = lambda proto: IP(src="198.51.100.7", dst="192.0.2.1", proto=proto)

made = {
    "update": to_agent() / option() / MIP6MH_BU(seq=0x1234, flags="AHLK", mhtime=0xfffe, options=[
        MIP6OptAltCoA(acoa=CARE_OF), unknown(29, "6200cb00714d"), unknown(32, "0000c6336407")]),
    "update, other order": to_agent() / option() / MIP6MH_BU(seq=2, flags="AH", mhtime=1, options=[
        unknown(200, "0102030405"), unknown(32, "0000c6336407"), MIP6OptNonceIndices(hni=1, coni=2),
        MIP6OptMobNetPrefix(plen=64, prefix="2001:db8:5::"), MIP6OptAltCoA(acoa=CARE_OF)]),
    "update at home": IPv6(src=HOME, dst=AGENT) / MIP6MH_BU(seq=3, flags="A", mhtime=0),
    "update behind hop-by-hop options":
        to_agent() / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / option() /
        MIP6MH_BU(seq=4, flags="AH", mhtime=1),
    "update of a proxy": to_agent() / MIP6MH_BU(seq=5, flags="AHP", mhtime=1),
    "acknowledgement": to_home() / MIP6MH_BA(status=135, flags="K", seq=0xabcd, mhtime=15, options=[
        MIP6OptBRAdvice(rinter=7), unknown(30, "8560cb00714d"), unknown(31, "80000000012c")]),
    "error": to_home() / MIP6MH_BE(status=1, ha=HOME),
    "refresh request": to_home() / MIP6MH_BRR(),
    "unknown": to_home() / MIP6MH_Generic(mhtype=99, msg=bytes(10)),
    "update over UDP": ipv4(17) / UDP(sport=4191, dport=4191) / IPv6(src=HOME, dst=AGENT) /
        MIP6MH_BU(seq=6, flags="AH", mhtime=1, options=[unknown(32, "0000c6336407")]),
    "inner": inner,
    "6 in 6": to_agent() / inner,
    "6 in 6 with a tunnel's options":
        to_agent() / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=4, optdata=b"\4")]) / inner,
    "6 in 4": ipv4(41) / inner,
    "6 in UDP": ipv4(17) / UDP(sport=50000, dport=4191) / inner,
}
result = {
    "read": [{"text": text(p), "again": again(p)} for p in packets(sys.argv[1])],
    "made": {name: bytes(p).hex() for name, p in made.items()},
    "joined": bytes(defragment6(list(packets(sys.argv[2])))).hex(),
}
print(json.dumps(result))
)python";

std::string option_text(int type, std::string const& data) {
    return fmt::format(" {} {}", type, data);
}

std::string message_text(BindingUpdate const& update) {
    unsigned const flags = (update.acknowledge ? 0x8000U : 0) |
                           (update.home_registration ? 0x4000U : 0) |
                           (update.link_local_compatible ? 0x2000U : 0) |
                           (update.key_management_mobility ? 0x1000U : 0) |
                           (update.force_udp ? 0x100U : 0) | (update.tlv_header ? 0x80U : 0);
    auto text = fmt::format("BU {} {} {}", update.sequence, flags, update.lifetime.count());
    if (update.alternate_care_of) text += " care-of " + update.alternate_care_of->text();
    if (auto const& one = update.ipv4_home) {
        auto const bits = one->prefix_length << 2 | (one->prefix_requested ? 2 : 0);
        text += option_text(29, fmt::format("{:02x}00{}", bits, hex(one->address.bytes())));
    }
    if (auto const& one = update.ipv4_care_of) text += option_text(32, "0000" + hex(one->bytes()));
    return text;
}
std::string message_text(BindingAcknowledgement const& one) {
    unsigned const flags = (one.key_management_mobility ? 0x80U : 0) | (one.tlv_header ? 0x10U : 0);
    auto text = fmt::format("BA {} {} {} {}", std::to_underlying(one.status), flags, one.sequence,
                            one.lifetime.count());
    if (one.refresh_advice) text += fmt::format(" advice {}", one.refresh_advice->count());
    if (one.ipv4_home) {
        text +=
            option_text(30, fmt::format("{:02x}{:02x}{}", std::to_underlying(one.ipv4_home->status),
                                        one.ipv4_home->prefix_length << 2,
                                        hex(one.ipv4_home->address.bytes())));
    }
    if (one.nat) {
        text += option_text(
            31, fmt::format("{}00{:08x}", one.nat->force_udp ? "80" : "00", one.nat->refresh_s));
    }
    return text;
}
std::string message_text(BindingError const& error) {
    return fmt::format("BE {} {}", error.status, error.home_address.text());
}
std::string message_text(BindingRefreshRequest const&) { return "BRR"; }
std::string message_text(UnknownMessage const& message) {
    return fmt::format("type {}", message.type);
}

/// As the script's text().
std::string text_of(SignallingPacket const& packet) {
    auto text = packet.source.text() + " " + packet.destination.text();
    if (packet.routing_home) text += " 2 1 " + packet.routing_home->text();
    if (packet.home_option) text += " " + packet.home_option->text();
    return text + " " +
           std::visit([](auto const& one) { return message_text(one); }, packet.message);
}

/// What the script makes, as it is read.
std::map<std::string, SignallingPacket> wanted_of_scapy() {
    auto const update = [](std::uint16_t sequence, std::uint16_t lifetime) {
        return BindingUpdate{.sequence = sequence, .lifetime = LifetimeUnits(lifetime)};
    };
    auto full = update(0x1234, 0xfffe);
    full.link_local_compatible = full.key_management_mobility = true;
    full.alternate_care_of = care_of;
    full.ipv4_home = Ipv4HomeAddress{ip("203.0.113.77"), 24, true};
    full.ipv4_care_of = ipv4_care_of;
    auto other_order = update(2, 1);
    other_order.alternate_care_of = care_of;
    other_order.ipv4_care_of = ipv4_care_of;
    auto at_home = update(3, 0);
    at_home.home_registration = false;
    auto over_udp = update(6, 1);
    over_udp.ipv4_care_of = ipv4_care_of;
    BindingAcknowledgement const acknowledgement{
        .status = BindingStatus::sequence_out_of_window,
        .key_management_mobility = true,
        .sequence = 0xabcd,
        .lifetime = LifetimeUnits(15),
        .refresh_advice = LifetimeUnits(7),
        .ipv4_home =
            Ipv4Acknowledgement{Ipv4Status::prefix_allocation_unauthorized, 24, ip("203.0.113.77")},
        .nat = NatDetection{true, 300}};
    return {
        {"update", {care_of, agent, home, {}, full}},
        {"update, other order", {care_of, agent, home, {}, other_order}},
        {"update at home", {home, agent, {}, {}, at_home}},
        {"update behind hop-by-hop options", {care_of, agent, home, {}, update(4, 1)}},
        {"update of a proxy", {care_of, agent, {}, {}, update(5, 1)}},
        {"acknowledgement", {agent, care_of, {}, home, acknowledgement}},
        {"error", {agent, care_of, {}, home, BindingError{1, home}}},
        {"refresh request", {agent, care_of, {}, home, BindingRefreshRequest{}}},
        {"unknown", {agent, care_of, {}, home, UnknownMessage{99}}},
        {"update over UDP", {home, agent, {}, {}, over_udp}},
    };
}

std::vector<SignallingPacket> const& sent() {
    static auto const all = signalling();
    return all;
}

/// What the script writes. Null: there is no scapy.
core::Json run_script(std::vector<Bytes> const& packets, std::vector<Bytes> const& fragments) {
    qmp_test::Directory const directory;
    auto const write = [&directory](char const* name, std::vector<Bytes> const& lines) {
        std::string text;
        for (auto const& line : lines) text += hex(line) + "\n";
        lab::write_file(directory.file(name), text);
        return directory.file(name);
    };
    lab::write_file(directory.file("script"), script);
    auto const done = lab::run({python, directory.file("script"), write("packets", packets),
                                write("fragments", fragments)});
    if (done.exit_status == no_scapy) return {};
    INFO(done.err);
    REQUIRE(done.exit_status == 0);
    return lab::parse_json(done.out);
}

void check_read(core::Json const& read, std::vector<Bytes> const& packets) {
    auto const found = read.elements();
    REQUIRE(found.size() == packets.size());
    for (std::size_t i = 0; i < packets.size(); ++i) {
        CHECK(found[i]["again"].text_or("") == hex(packets[i]));
        if (i < sent().size()) CHECK(found[i]["text"].text_or("") == text_of(sent()[i]));
    }
}

void check_made(core::Json const& made) {
    for (auto const& [name, wanted] : wanted_of_scapy()) {
        INFO(name);
        auto const packet = bytes(made[name].text_or(""));
        auto const outer = decapsulate(packet);
        CHECK(outer.has_value() == (name == "update over UDP"));
        auto const read = parse_packet(outer ? outer->inner : ByteView(packet));
        REQUIRE(read);
        CHECK(*read == wanted);
    }
    auto const inner = bytes(made["inner"].text_or(""));
    for (auto const* name : {"6 in 6", "6 in 6 with a tunnel's options", "6 in 4", "6 in UDP"}) {
        INFO(name);
        auto const packet = bytes(made[name].text_or(""));
        auto const read = decapsulate(packet);
        REQUIRE(read);
        CHECK(hex(read->inner) == hex(inner));
        CHECK(read->udp_source == (std::string(name) == "6 in UDP" ? 50'000 : 0));
    }
}

void check_joined(core::Json const& result) {
    CHECK(result["joined"].text_or("") == hex(outer(inner_ipv6(2'000))));
}

}  // namespace

TEST_CASE("mobile ipv6: scapy reads what is sent, and is read") {
    std::vector<Bytes> packets;
    for (auto const& packet : sent()) packets.push_back(encode(packet));
    for (auto const& inner : {inner_ipv6(8), inner_ipv4(8)}) {
        packets.push_back(outer(inner));
        packets.push_back(outer_ipv4(inner, 0, 0));
        packets.push_back(outer_ipv4(inner, 4191, 50'000));
    }
    auto const result = run_script(packets, fragment(outer(inner_ipv6(2'000)), 1'280, 7));
    if (result.is_null()) {
        WARN("skipped: there is no scapy: run scripts/setup");
        return;
    }
    check_read(result["read"], packets);
    check_made(result["made"]);
    check_joined(result);
}

}  // namespace mobile_ipv6_scapy_cases
