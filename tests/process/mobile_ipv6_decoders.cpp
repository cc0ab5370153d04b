// What netmove/mobile_ipv6/ sends, read by tshark, which knows every field, RFC 5555's too. It does
// not check a Mobility Header's checksum: scapy does (mobile_ipv6_scapy.cpp).
#include <catch2/catch.hpp>
#include <map>

#include "tests/process/mobile_ipv6_samples.hpp"

namespace mobile_ipv6_decoders_cases {

namespace {

using namespace mobile;

constexpr auto tshark = "/usr/bin/tshark";

using Fields = std::map<std::string, std::string>;
struct Frame {
    std::string name;
    Bytes bytes;
    Fields wanted;  ///< A field that is not named here must not be there.
};

constexpr char const* field_names[] = {
    "_ws.malformed",
    "_ws.expert.message",
    "mip6.opt.len.invalid",
    "mip6.bogus_header_length",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.nxt",
    "ipv6.hlim",
    "ipv6.tclass",
    "ipv6.opt.mipv6.home_address",
    "ipv6.routing.type",
    "ipv6.routing.segleft",
    "ipv6.routing.mipv6.home_address",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.more",
    "ipv6.fraghdr.ident",
    "ipv6.reassembled.length",
    "mip6.proto",
    "mip6.hlen",
    "mip6.mhtype",
    "mip6.reserved",
    "mip6.bu.seqnr",
    "mip6.bu.a_flag",
    "mip6.bu.h_flag",
    "mip6.bu.l_flag",
    "mip6.bu.k_flag",
    "mip6.bu.m_flag",
    "mip6.nemo.bu.r_flag",
    "mip6.bu.p_flag",
    "mip6.bu.f_flag",
    "mip6.bu.t_flag",
    "mip6.bu.b_flag",
    "mip6.bu.lifetime",
    "mip6.ba.status",
    "mip6.ba.k_flag",
    "mip6.nemo.ba.r_flag",
    "mip6.ba.p_flag",
    "mip6.ba.t_flag",
    "mip6.ba.b_flag",
    "mip6.ba.seqnr",
    "mip6.ba.lifetime",
    "mip6.be.status",
    "mip6.be.haddr",
    "mip6.bra.interval",
    "mip6.acoa.acoa",
    "mip6.ipv4ha.preflen",
    "mip6.ipv4ha.p_flag",
    "mip6.ipv4ha.ha",
    "mip6.ipv4aa.sts",
    "mip6.natd.f_flag",
    "mip6.natd.reserved",
    "mip6.natd.refresh_t",
    "mip6.ipv4coa.reserved",
    "mip6.ipv4coa.addr",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "ip.ttl",
    "ip.dsfield",
    "ip.flags.df",
    "ip.checksum.status",
    "udp.srcport",
    "udp.dstport",
    "udp.checksum.status",
    "icmpv6.type",
    "icmpv6.code",
    "icmpv6.mtu",
    "icmpv6.checksum.status",
    "icmp.type",
    "icmp.code",
    "icmp.mtu",
    "icmp.checksum.status",
};

std::string flag(bool value) { return value ? "1" : "0"; }

void add_message(Fields& fields, BindingUpdate const& update) {
    fields["mip6.mhtype"] = "5";
    fields["mip6.bu.seqnr"] = fmt::to_string(update.sequence);
    fields["mip6.bu.a_flag"] = flag(update.acknowledge);
    fields["mip6.bu.h_flag"] = flag(update.home_registration);
    fields["mip6.bu.l_flag"] = flag(update.link_local_compatible);
    fields["mip6.bu.k_flag"] = flag(update.key_management_mobility);
    fields["mip6.bu.f_flag"] = flag(update.force_udp);
    fields["mip6.bu.t_flag"] = flag(update.tlv_header);
    for (auto const* other :
         {"mip6.bu.m_flag", "mip6.nemo.bu.r_flag", "mip6.bu.p_flag", "mip6.bu.b_flag"}) {
        fields[other] = "0";
    }
    fields["mip6.bu.lifetime"] = fmt::to_string(update.lifetime.count());
    if (update.alternate_care_of) fields["mip6.acoa.acoa"] = update.alternate_care_of->text();
    if (auto const& one = update.ipv4_home) {
        fields["mip6.ipv4ha.preflen"] = fmt::to_string(one->prefix_length);
        fields["mip6.ipv4ha.p_flag"] = flag(one->prefix_requested);
        fields["mip6.ipv4ha.ha"] = one->address.text();
    }
    if (update.ipv4_care_of) {
        fields["mip6.ipv4coa.reserved"] = "0";
        fields["mip6.ipv4coa.addr"] = update.ipv4_care_of->text();
    }
}

void add_message(Fields& fields, BindingAcknowledgement const& acknowledgement) {
    fields["mip6.mhtype"] = "6";
    fields["mip6.ba.status"] = fmt::to_string(std::to_underlying(acknowledgement.status));
    fields["mip6.ba.k_flag"] = flag(acknowledgement.key_management_mobility);
    fields["mip6.ba.t_flag"] = flag(acknowledgement.tlv_header);
    for (auto const* other : {"mip6.nemo.ba.r_flag", "mip6.ba.p_flag", "mip6.ba.b_flag"}) {
        fields[other] = "0";
    }
    fields["mip6.ba.seqnr"] = fmt::to_string(acknowledgement.sequence);
    fields["mip6.ba.lifetime"] = fmt::to_string(acknowledgement.lifetime.count());
    if (auto const& one = acknowledgement.refresh_advice) {
        fields["mip6.bra.interval"] = fmt::to_string(one->count());
    }
    if (auto const& one = acknowledgement.ipv4_home) {
        fields["mip6.ipv4aa.sts"] = fmt::to_string(std::to_underlying(one->status));
        fields["mip6.ipv4ha.preflen"] = fmt::to_string(one->prefix_length);
        fields["mip6.ipv4ha.ha"] = one->address.text();
    }
    if (auto const& one = acknowledgement.nat) {
        fields["mip6.natd.f_flag"] = flag(one->force_udp);
        fields["mip6.natd.reserved"] = "0";
        fields["mip6.natd.refresh_t"] = fmt::to_string(one->refresh_s);
    }
}

void add_message(Fields& fields, BindingError const& error) {
    fields["mip6.mhtype"] = "7";
    fields["mip6.be.status"] = fmt::to_string(error.status);
    fields["mip6.be.haddr"] = error.home_address.text();
}
void add_message(Fields& fields, BindingRefreshRequest const&) { fields["mip6.mhtype"] = "0"; }
void add_message(Fields& fields, UnknownMessage const& message) {
    fields["mip6.mhtype"] = fmt::to_string(message.type);
}

Fields fields_of(SignallingPacket const& packet) {
    Fields fields{{"ipv6.src", packet.source.text()},
                  {"ipv6.dst", packet.destination.text()},
                  {"ipv6.nxt", "135"},
                  {"ipv6.hlim", "64"},
                  {"ipv6.tclass", "0x00000000"},
                  {"mip6.proto", "59"},
                  {"mip6.reserved", "0x00"}};
    auto const message = encode(packet.message, packet.home_option.value_or(packet.source),
                                packet.routing_home.value_or(packet.destination));
    fields["mip6.hlen"] = fmt::to_string(message.size() / 8 - 1);
    if (packet.home_option) {
        fields["ipv6.nxt"] = "60";
        fields["ipv6.opt.mipv6.home_address"] = packet.home_option->text();
    }
    if (packet.routing_home) {
        fields["ipv6.nxt"] = "43";
        fields["ipv6.routing.type"] = "2";
        fields["ipv6.routing.segleft"] = "1";
        fields["ipv6.routing.mipv6.home_address"] = packet.routing_home->text();
    }
    std::visit([&fields](auto const& one) { add_message(fields, one); }, packet.message);
    return fields;
}

/// Fields of the packets in packets, which the headers of each packet give one after the other.
Fields inner_ipv6_fields() {
    return {{"ipv6.src", home.text()},
            {"ipv6.dst", "2001:db8:9::9"},
            {"ipv6.nxt", "59"},
            {"ipv6.hlim", "63"},
            {"ipv6.tclass", "0x000000b9"}};
}
Fields inner_ipv4_fields() {
    return {{"ip.src", "203.0.113.77"}, {"ip.dst", "192.0.2.99"}, {"ip.proto", "253"},
            {"ip.ttl", "63"},           {"ip.dsfield", "0xba"},   {"ip.flags.df", "1"},
            {"ip.checksum.status", "1"}};
}
Fields behind(Fields first, Fields const& second) {
    for (auto const& [name, value] : second) {
        auto& all = first[name];
        all += (all.empty() ? "" : ",") + value;
    }
    return first;
}
Fields ipv6_header(std::string const& next, std::string const& traffic_class) {
    return {{"ipv6.src", agent.text()},
            {"ipv6.dst", care_of.text()},
            {"ipv6.nxt", next},
            {"ipv6.hlim", "64"},
            {"ipv6.tclass", traffic_class}};
}
Fields ipv4_header(std::string const& protocol, std::string const& service) {
    return {{"ip.src", ipv4_agent.text()}, {"ip.dst", ipv4_care_of.text()},
            {"ip.proto", protocol},        {"ip.ttl", "64"},
            {"ip.dsfield", service},       {"ip.flags.df", "1"},
            {"ip.checksum.status", "1"}};
}
Fields const udp_header{
    {"udp.srcport", "4191"}, {"udp.dstport", "50000"}, {"udp.checksum.status", "1"}};

std::vector<Frame> frames_of_signalling() {
    std::vector<Frame> frames;
    for (auto const& packet : signalling()) {
        auto const name = fmt::format("signalling {}", frames.size());
        auto const fields = fields_of(packet);
        frames.push_back({name, encode(packet), fields});
        if (packet.home_option || packet.routing_home) continue;
        // At the home address there is no extension header: so it is over an IPv4 network.
        frames.push_back({name + " over UDP", outer_ipv4(encode(packet), 4191, 50'000),
                          behind(behind(ipv4_header("17", "0x00"), udp_header), fields)});
    }
    return frames;
}

std::vector<Frame> frames_of_data() {
    auto const in_ipv6 = [](std::string const& next, std::string const& traffic_class) {
        return ipv6_header(next, traffic_class);
    };
    auto const small6 = inner_ipv6(8);
    auto const small4 = inner_ipv4(8);
    auto const udp6 = behind(ipv4_header("17", "0xb9"), udp_header);
    auto const udp4 = behind(ipv4_header("17", "0xba"), udp_header);
    return {
        {"6 in 6", outer(small6), behind(in_ipv6("41", "0x000000b9"), inner_ipv6_fields())},
        {"4 in 6", outer(small4), behind(in_ipv6("4", "0x000000ba"), inner_ipv4_fields())},
        {"6 in 4", outer_ipv4(small6, 0, 0),
         behind(ipv4_header("41", "0xb9"), inner_ipv6_fields())},
        {"4 in 4", outer_ipv4(small4, 0, 0), behind(ipv4_header("4", "0xba"), inner_ipv4_fields())},
        {"6 in UDP", outer_ipv4(small6, 4191, 50'000), behind(udp6, inner_ipv6_fields())},
        {"4 in UDP", outer_ipv4(small4, 4191, 50'000), behind(udp4, inner_ipv4_fields())},
    };
}

std::vector<Frame> frames_of_errors() {
    auto const large6 = inner_ipv6(1'460);
    auto const large4 = inner_ipv4(1'480);
    Fields to_home = ipv6_header("58", "0x00000000");
    to_home["ipv6.dst"] = home.text();
    Fields to_ipv4_home = ipv4_header("1", "0x00");
    to_ipv4_home["ip.dst"] = "203.0.113.77";
    Fields const error6{{"icmpv6.type", "2"},
                        {"icmpv6.code", "0"},
                        {"icmpv6.mtu", "1460"},
                        {"icmpv6.checksum.status", "1"}};
    Fields const error4{{"icmp.type", "3"},
                        {"icmp.code", "4"},
                        {"icmp.mtu", "1452"},
                        {"icmp.checksum.status", "1"}};
    return {
        {"packet too big", packet_too_big(agent, large6, 1'460).value(),
         behind(behind(to_home, error6), inner_ipv6_fields())},
        {"fragmentation needed", packet_too_big(ipv4_agent, large4, 1'452).value(),
         behind(behind(to_ipv4_home, error4), inner_ipv4_fields())},
    };
}

std::vector<Frame> frames_of_fragments() {
    auto const parts = fragment(outer(inner_ipv6(1'460)), 1'280, 0xfedcba98);
    REQUIRE(parts.size() == 2);
    auto const fragment_fields = [](char const* offset, char const* more) {
        return behind(ipv6_header("44", "0x000000b9"), {{"ipv6.fraghdr.offset", offset},
                                                        {"ipv6.fraghdr.more", more},
                                                        {"ipv6.fraghdr.ident", "0xfedcba98"}});
    };
    auto whole = behind(fragment_fields("154", "0"), inner_ipv6_fields());
    whole["ipv6.reassembled.length"] = "1500";
    return {{"first fragment", parts[0], fragment_fields("0", "1")},
            {"last fragment, and the whole packet", parts[1], whole}};
}

/// A capture file of packets that begin with their IP header.
std::string capture(std::vector<Frame> const& frames) {
    std::string file;
    auto const put = [&file](std::uint32_t value, int size) {
        for (int i = 0; i < size; ++i) file.push_back(static_cast<char>(value >> 8 * i));
    };
    constexpr std::uint32_t raw_ip = 101;
    constexpr std::uint32_t longest = 262'144;
    put(0xa1b2c3d4, 4);
    put(2, 2);
    put(4, 2);
    put(0, 4);
    put(0, 4);
    put(longest, 4);
    put(raw_ip, 4);
    for (auto const& frame : frames) {
        auto const size = static_cast<std::uint32_t>(frame.bytes.size());
        put(0, 4);
        put(0, 4);
        put(size, 4);
        put(size, 4);
        file.append(frame.bytes.begin(), frame.bytes.end());
    }
    return file;
}

std::vector<std::string> split(std::string const& text, char at) {
    std::vector<std::string> parts(1);
    for (char const c : text) {
        if (c == at) {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

/// What tshark reads: for each frame the fields that are there.
std::vector<Fields> read(std::vector<Frame> const& frames) {
    qmp_test::Directory const directory;
    lab::write_file(directory.file("capture"), capture(frames));
    lab::Argv argv{tshark, "-n",
                   "-r",   directory.file("capture"),
                   "-d",   "udp.port==4191,ip",
                   "-o",   "ip.check_checksum:TRUE",
                   "-o",   "udp.check_checksum:TRUE",
                   "-T",   "fields",
                   "-E",   "separator=|",
                   "-E",   "occurrence=a"};
    for (auto const* name : field_names) {
        argv.emplace_back("-e");
        argv.emplace_back(name);
    }
    // Its settings are none of this machine's.
    auto const text = lab::must_run(argv, {"", {"HOME=" + directory.file("")}});
    std::vector<Fields> all;
    for (auto const& line : split(text, '\n')) {
        if (line.empty()) continue;
        auto const values = split(line, '|');
        REQUIRE(values.size() == std::size(field_names));
        Fields& fields = all.emplace_back();
        for (std::size_t i = 0; i < values.size(); ++i) {
            if (!values[i].empty()) fields[field_names[i]] = values[i];
        }
    }
    return all;
}

std::string text_of(Fields const& fields) {
    std::string text;
    for (auto const& [name, value] : fields) text += name + "=" + value + "\n";
    return text;
}

}  // namespace

TEST_CASE("mobile ipv6: tshark reads what is sent") {
    if (!lab::fs::exists(tshark)) {
        WARN("skipped: there is no tshark: run scripts/setup");
        return;
    }
    auto frames = frames_of_signalling();
    for (auto const& more : {frames_of_data(), frames_of_errors(), frames_of_fragments()}) {
        frames.insert(frames.end(), more.begin(), more.end());
    }
    auto const found = read(frames);
    REQUIRE(found.size() == frames.size());
    for (std::size_t i = 0; i < frames.size(); ++i) {
        INFO(frames[i].name << ": " << hex(frames[i].bytes));
        CHECK(text_of(found[i]) == text_of(frames[i].wanted));
    }
}

}  // namespace mobile_ipv6_decoders_cases
