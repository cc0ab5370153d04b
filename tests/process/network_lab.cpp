#include "tests/process/network_lab.hpp"

#include <cstdlib>

namespace network_lab {

namespace {

constexpr MacAddress everybody{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
// Frames of one burst: well below the capacity of a tap's ring.
constexpr std::size_t burst = 200;

unsigned u16(Bytes const& frame, std::size_t at) {
    return static_cast<unsigned>(frame[at]) << 8 | frame[at + 1];
}
void put16(Bytes& out, unsigned value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8));
    out.push_back(static_cast<std::uint8_t>(value & 0xff));
}
void append(Bytes& out, Bytes const& more) { out.insert(out.end(), more.begin(), more.end()); }

bool all_zero(Bytes const& frame, std::size_t at, std::size_t size) {
    return std::all_of(frame.begin() + static_cast<std::ptrdiff_t>(at),
                       frame.begin() + static_cast<std::ptrdiff_t>(at + size),
                       [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace

Kind kind_of(Bytes const& frame) {
    if (frame.size() < 34) return Kind::other;
    auto const type = u16(frame, 12);
    if (type == 0x0800 && frame[14] >> 4 == 4) return Kind::ipv4;
    if (type == 0x86dd && frame[14] >> 4 == 6 && frame.size() >= 54) return Kind::ipv6;
    if (frame.size() < 42) return Kind::other;
    if (type == 0x0806 && u16(frame, 16) == 0x0800) return Kind::ipv4;
    if (type == 0x8035 && all_zero(frame, 28, 4) && all_zero(frame, 38, 4)) {
        return Kind::announcement;
    }
    return Kind::other;
}

char const* name(Kind kind) {
    switch (kind) {
        case Kind::ipv4:
            return "IPv4";
        case Kind::ipv6:
            return "IPv6";
        case Kind::announcement:
            return "announcement";
        case Kind::other:
            return "other";
    }
    return "?";
}

// ---- frames -------------------------------------------------------------------------------------

/// A broadcast, a group, or an unknown station: a bridge sends these to every port.
Bytes Flood::header(unsigned ether_type) {
    Bytes out;
    switch (below(3)) {
        case 0:
            append(out, Bytes(everybody.bytes.begin(), everybody.bytes.end()));
            break;
        case 1:
            append(out, {0x33, 0x33, 0, 0, 0, static_cast<std::uint8_t>(below(256))});
            break;
        default:
            append(out, {0x02, 0xaa, 0, 0, 0, static_cast<std::uint8_t>(below(256))});
    }
    append(out, {0x02, 0xbb, 0, 0, static_cast<std::uint8_t>(below(256)),
                 static_cast<std::uint8_t>(below(256))});
    put16(out, ether_type);
    return out;
}

/// Correct version and header length, random rest; a number makes each packet different.
Bytes Flood::packet(int version, std::size_t size) {
    Bytes out(std::max<std::size_t>(size, 8));
    for (auto& byte : out) byte = static_cast<std::uint8_t>(random_());
    out[0] =
        static_cast<std::uint8_t>(version << 4 | static_cast<int>(version == 4 ? 5 : below(16)));
    ++number_;
    for (std::size_t i = 0; i < 4; ++i) {
        out[4 + i] = static_cast<std::uint8_t>(number_ >> (8 * i));
    }
    return out;
}

Bytes Flood::sound(Protocol protocol) {
    ++number_;
    auto const v4 = protocol == Protocol::ipv4;
    auto out = udp_frame({}, {}, ip(v4 ? "192.0.2.7" : "2001:db8::7"),
                         ip(v4 ? "192.0.2.8" : "2001:db8::8"), 64, 8 + below(1000));
    std::ranges::copy(header(v4 ? 0x0800 : 0x86dd), out.begin());
    for (std::size_t i = 0; i < 4; ++i) {
        out[out.size() - 1 - i] = static_cast<std::uint8_t>(number_ >> (8 * i));
    }
    return out;
}

Bytes Flood::arp(unsigned protocol_type) {
    auto out = header(0x0806);
    put16(out, 1);
    put16(out, protocol_type);
    append(out, {6, 4, 0, static_cast<std::uint8_t>(1 + below(2))});
    append(out, packet(4, 38));
    return out;
}

Bytes Flood::rarp(bool with_address) {
    MacAddress const station{{0x02, 0xbb, 0, 1, static_cast<std::uint8_t>(below(256)),
                              static_cast<std::uint8_t>(below(256))}};
    auto out = rarp_announcement(station);
    if (with_address) out[below(2) == 0 ? 28 : 38] = 192;
    return out;
}

Bytes Flood::tagged(unsigned tag, Bytes inner) {
    Bytes const id{static_cast<std::uint8_t>(tag >> 8), static_cast<std::uint8_t>(tag & 0xff),
                   static_cast<std::uint8_t>(below(2) * 0xe0),
                   static_cast<std::uint8_t>(below(3) == 0 ? 0 : below(256))};
    inner.insert(inner.begin() + 12, id.begin(), id.end());
    return inner;
}

Bytes Flood::llc(bool snap, unsigned ether_type, int version) {
    auto const inside = packet(version, 60);
    Bytes body = snap ? Bytes{0xaa, 0xaa, 3, 0, 0, 0} : Bytes{0x06, 0x06, 3};
    if (snap) put16(body, ether_type);
    append(body, inside);
    auto out = header(static_cast<unsigned>(body.size()));
    append(out, body);
    return out;
}

Bytes Flood::one() {
    auto const with = [this](unsigned type, int version) {
        auto out = header(type);
        append(out, packet(version, 46 + below(1000)));
        return out;
    };
    unsigned const tags[] = {0x8100, 0x88a8, 0x9100, 0x9200};
    unsigned const strange[] = {0x8847, 0x8848, 0x8864, 0x88cc, 0x88e5, 0x6558, 0x88f7,
                                0x0801, 0x86dc, 0x0842, 0x05dc, 0x0600, 0xffff, 0x0000};
    int const version = below(2) == 0 ? 4 : 6;
    auto const mine = [&] { return sound(version == 4 ? Protocol::ipv4 : Protocol::ipv6); };
    switch (turn_++ % 14) {
        case 0:
            return below(2) == 0 ? with(0x0800, 4) : sound(Protocol::ipv4);
        case 1:
            return below(2) == 0 ? with(0x86dd, 6) : sound(Protocol::ipv6);
        case 2:
            return arp(0x0800);
        case 3:
            return rarp(false);
        case 4: {  // a sound packet with the other protocol's EtherType
            auto out = mine();
            Bytes const type = version == 4 ? Bytes{0x86, 0xdd} : Bytes{0x08, 0x00};
            std::ranges::copy(type, out.begin() + 12);
            return out;
        }
        case 5:
            return arp(below(2) == 0 ? 0x86dd : below(65536) | 0x8000);
        case 6:
            return rarp(true);
        case 7:
            return tagged(tags[below(4)], mine());
        case 8:
            return tagged(tags[below(4)], tagged(tags[below(4)], mine()));
        case 9:
            return llc(below(2) == 0, version == 4 ? 0x0800 : 0x86dd, version);
        case 10:
            return with(strange[below(std::size(strange))], version);
        case 11: {  // truncated
            auto out = below(4) == 0 ? arp(0x0800) : mine();
            out.resize(14 + below(20));
            return out;
        }
        case 12: {  // reserved groups, which 802.1D keeps from being forwarded
            auto out = mine();
            Bytes const group{0x01, 0x80, 0xc2, 0, 0, static_cast<std::uint8_t>(1 + below(15))};
            std::ranges::copy(group, out.begin());
            return out;
        }
        default:  // anything else
            return with(below(65536), static_cast<int>(below(16)));
    }
}

std::vector<Bytes> Flood::next(std::size_t count) {
    std::vector<Bytes> out;
    while (out.size() < count) out.push_back(one());
    return out;
}

std::vector<Bytes> Flood::good(Protocol protocol, std::size_t count) {
    std::vector<Bytes> out;
    while (out.size() < count) {
        bool const address_question = protocol == Protocol::ipv4 && below(4) == 0;
        out.push_back(address_question ? arp(0x0800) : sound(protocol));
    }
    return out;
}

// ---- the host -----------------------------------------------------------------------------------

NetworkHost::NetworkHost() {
    std::string pattern = (lab::fs::temp_directory_path() / "sidecar-network-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    directory = pattern;
    // Otherwise the kernel itself would drop malformed packets on bridges, and the rules would not
    // be tested.
    sh("for i in iptables ip6tables arptables; do "
       "echo 0 >/proc/sys/net/bridge/bridge-nf-call-$i || true; done");
}

NetworkHost::~NetworkHost() {
    std::error_code ignored;  // there is no one to report it to
    lab::fs::remove_all(directory, ignored);
}

lab::Output NetworkHost::network(std::vector<std::string> words) const {
    words.insert(words.begin(), {lab::program("sidecar"), "network"});
    words.insert(words.end(), {"--state-dir", directory});
    return lab::run(std::move(words));
}

std::string NetworkHost::must_network(std::vector<std::string> words) const {
    auto const done = network(std::move(words));
    INFO(done.err);
    REQUIRE(done.exit_status == 0);
    return done.out;
}

Tap NetworkHost::wire(std::string const& name) {
    auto tap = must(Tap::open(netlink, name, {}));
    must(make_quiet(netlink, name));
    return tap;
}

Tap NetworkHost::guest(std::string const& name, std::string const& network) {
    auto tap = must(Tap::open(netlink, name, {}));
    must(place_tap(netlink, name, {network, 0, 0}));
    return tap;
}

// Without the bridges' timers, which are the values with decimals.
std::string NetworkHost::everything() const {
    return sh(R"(ip -o -d link | sed -E 's/ +[0-9]+[.][0-9]+//g'
                 ip -o addr | sed 's/ tentative//'
                 nft -s list ruleset
                 cd /proc/sys/net/ipv6/conf
                 grep . */disable_ipv6 */addr_gen_mode || true)");
}

void send(Tap const& from, std::vector<Bytes> const& frames, std::function<void()> const& look) {
    for (std::size_t at = 0; at < frames.size(); at += burst) {
        for (std::size_t i = at; i < std::min(frames.size(), at + burst); ++i) {
            must(from.write_frame(frames[i]));
        }
        look();
    }
}

}  // namespace network_lab
