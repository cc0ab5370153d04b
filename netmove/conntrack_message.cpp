#include "netmove/conntrack_message.hpp"

#include <libnetfilter_conntrack/libnetfilter_conntrack.h>
#include <netinet/in.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace netmove::conntrack {

namespace {

// Above what one message can be: two tuples twice, a helper, labels, in all below 1 KiB.
constexpr std::size_t request_size_max = 4096;
// IP_CT_TCP_FLAG_*: the first three are the peers' own, the last is what we ask for.
constexpr std::uint8_t tcp_flags_kept = 0x01 | 0x02 | 0x04;
constexpr std::uint8_t tcp_be_liberal = 0x08;
constexpr unsigned label_bits = 128;
// Of CTA_FILTER: by the sender's address.
constexpr std::uint32_t filter_by_sender = 1U << 0;

struct Destroy {
    void operator()(nf_conntrack* object) const { nfct_destroy(object); }
};
using Object = std::unique_ptr<nf_conntrack, Destroy>;

Object make_object() {
    Object object(nfct_new());
    if (!object) std::abort();  // out of memory for a few hundred bytes
    return object;
}

unsigned char family_of(Address const& address) { return address.is_ipv4() ? AF_INET : AF_INET6; }

void put(Request& request, int type, std::span<char const> bytes) {
    nlattr head{};
    head.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + bytes.size());
    head.nla_type = static_cast<std::uint16_t>(type);
    auto const* raw = reinterpret_cast<char const*>(&head);
    request.insert(request.end(), raw, raw + sizeof head);
    request.insert(request.end(), bytes.begin(), bytes.end());
    request.resize(NLMSG_ALIGN(request.size()));
    header_of(request).nlmsg_len = static_cast<std::uint32_t>(request.size());
}

/// An attribute of attributes: what `fill` puts into it.
template <class Fill>
void nest(Request& request, int type, Fill fill) {
    auto const at = request.size();
    put(request, type | NLA_F_NESTED, {});
    fill();
    auto const length = static_cast<std::uint16_t>(request.size() - at);
    std::memcpy(request.data() + at, &length, sizeof length);  // nla_len
}

/// The object's attributes, after the fixed part of `request`.
Request with_object(Request request, Object const& object) {
    auto const used = request.size();
    request.resize(request_size_max);
    if (nfct_nlmsg_build(&header_of(request), object.get()) < 0) request.resize(used);
    request.resize(header_of(request).nlmsg_len);
    return request;
}

void set_address(Object const& object, nf_conntrack_attr ipv4, nf_conntrack_attr ipv6,
                 Address const& address) {
    nfct_set_attr(object.get(), address.is_ipv4() ? ipv4 : ipv6, address.bytes().data());
}

void set_port(Object const& object, nf_conntrack_attr attribute, std::uint16_t port) {
    nfct_set_attr_u16(object.get(), attribute, htons(port));
}

bool is_icmp(std::uint8_t protocol) {
    return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/// By which the kernel finds it; the reply as it is without translation.
Object object_of(ConntrackKey const& key) {
    auto object = make_object();
    auto* const raw = object.get();
    nfct_set_attr_u8(raw, ATTR_L3PROTO, family_of(key.source));
    nfct_set_attr_u8(raw, ATTR_L4PROTO, key.protocol);
    set_address(object, ATTR_ORIG_IPV4_SRC, ATTR_ORIG_IPV6_SRC, key.source);
    set_address(object, ATTR_ORIG_IPV4_DST, ATTR_ORIG_IPV6_DST, key.destination);
    if (is_icmp(key.protocol)) {
        nfct_set_attr_u8(raw, ATTR_ICMP_TYPE, key.icmp_type);
        nfct_set_attr_u8(raw, ATTR_ICMP_CODE, key.icmp_code);
        set_port(object, ATTR_ICMP_ID, key.source_port);
    } else {
        set_port(object, ATTR_ORIG_PORT_SRC, key.source_port);
        set_port(object, ATTR_ORIG_PORT_DST, key.destination_port);
    }
    using ZoneOf = ConntrackKey::ZoneOf;
    if (key.zone != 0) {
        auto const attribute = key.zone_of == ZoneOf::both       ? ATTR_ZONE
                               : key.zone_of == ZoneOf::original ? ATTR_ORIG_ZONE
                                                                 : ATTR_REPL_ZONE;
        nfct_set_attr_u16(raw, attribute, key.zone);
    }
    return object;
}

void set_translation(Object const& object, ConntrackEntry const& entry) {
    if (entry.source_translated()) {
        set_address(object, ATTR_SNAT_IPV4, ATTR_SNAT_IPV6, entry.reply_destination);
        set_port(object, ATTR_SNAT_PORT, entry.reply_destination_port);
    }
    if (entry.destination_translated()) {
        set_address(object, ATTR_DNAT_IPV4, ATTR_DNAT_IPV6, entry.reply_source);
        set_port(object, ATTR_DNAT_PORT, entry.reply_source_port);
    }
    if (entry.sequence == decltype(entry.sequence){}) return;
    constexpr std::array attributes{
        ATTR_ORIG_NAT_SEQ_CORRECTION_POS, ATTR_ORIG_NAT_SEQ_OFFSET_BEFORE,
        ATTR_ORIG_NAT_SEQ_OFFSET_AFTER,   ATTR_REPL_NAT_SEQ_CORRECTION_POS,
        ATTR_REPL_NAT_SEQ_OFFSET_BEFORE,  ATTR_REPL_NAT_SEQ_OFFSET_AFTER};
    for (std::size_t index = 0; index < attributes.size(); ++index) {
        nfct_set_attr_u32(object.get(), attributes[index], entry.sequence[index]);
    }
}

void set_protocol_state(nf_conntrack* object, ConntrackEntry const& entry) {
    if (entry.key.protocol == IPPROTO_TCP) {
        constexpr auto mask = static_cast<std::uint8_t>(tcp_flags_kept | tcp_be_liberal);
        auto const flags = [](std::uint8_t sent) {
            return static_cast<std::uint8_t>((sent & tcp_flags_kept) | tcp_be_liberal);
        };
        nfct_set_attr_u8(object, ATTR_TCP_STATE, entry.state);
        nfct_set_attr_u8(object, ATTR_TCP_FLAGS_ORIG, flags(entry.tcp_flags[0]));
        nfct_set_attr_u8(object, ATTR_TCP_MASK_ORIG, mask);
        nfct_set_attr_u8(object, ATTR_TCP_FLAGS_REPL, flags(entry.tcp_flags[1]));
        nfct_set_attr_u8(object, ATTR_TCP_MASK_REPL, mask);
        nfct_set_attr_u8(object, ATTR_TCP_WSCALE_ORIG, entry.tcp_scale[0]);
        nfct_set_attr_u8(object, ATTR_TCP_WSCALE_REPL, entry.tcp_scale[1]);
    }
    if (entry.key.protocol == IPPROTO_SCTP) {
        nfct_set_attr_u8(object, ATTR_SCTP_STATE, entry.state);
        nfct_set_attr_u32(object, ATTR_SCTP_VTAG_ORIG, entry.sctp_tags[0]);
        nfct_set_attr_u32(object, ATTR_SCTP_VTAG_REPL, entry.sctp_tags[1]);
    }
}

void set_labels(nf_conntrack* object, std::vector<std::uint8_t> const& labels) {
    if (labels.empty()) return;
    auto* const bits = nfct_bitmask_new(label_bits - 1);
    if (bits == nullptr) std::abort();  // out of memory for a few bytes
    for (unsigned bit = 0; bit < label_bits; ++bit) {
        if ((labels[bit / 8] >> bit % 8 & 1) != 0) nfct_bitmask_set_bit(bits, bit);
    }
    nfct_set_attr(object, ATTR_CONNLABELS, bits);  // it owns them now
}

std::uint8_t u8_of(nf_conntrack const* object, nf_conntrack_attr attribute) {
    return nfct_attr_is_set(object, attribute) > 0 ? nfct_get_attr_u8(object, attribute)
                                                   : std::uint8_t{0};
}
std::uint16_t port_of(nf_conntrack const* object, nf_conntrack_attr attribute) {
    return nfct_attr_is_set(object, attribute) > 0 ? ntohs(nfct_get_attr_u16(object, attribute))
                                                   : std::uint16_t{0};
}
std::uint32_t u32_of(nf_conntrack const* object, nf_conntrack_attr attribute) {
    return nfct_attr_is_set(object, attribute) > 0 ? nfct_get_attr_u32(object, attribute) : 0;
}

Address address_of(nf_conntrack const* object, nf_conntrack_attr ipv4, nf_conntrack_attr ipv6) {
    auto const bytes = [&](nf_conntrack_attr attribute) {
        return static_cast<std::uint8_t const*>(nfct_get_attr(object, attribute));
    };
    if (nfct_attr_is_set(object, ipv4) > 0) {
        return Address::ipv4(std::span<std::uint8_t const, 4>(bytes(ipv4), 4));
    }
    if (nfct_attr_is_set(object, ipv6) > 0) {
        return Address::ipv6(std::span<std::uint8_t const, 16>(bytes(ipv6), 16));
    }
    return {};
}

std::vector<std::uint8_t> labels_of(nf_conntrack const* object) {
    std::vector<std::uint8_t> labels;
    if (nfct_attr_is_set(object, ATTR_CONNLABELS) <= 0) return labels;
    auto const* bits = static_cast<nfct_bitmask const*>(nfct_get_attr(object, ATTR_CONNLABELS));
    bool any = false;
    labels.resize(label_bits / 8);
    for (unsigned bit = 0; bit < label_bits && bit <= nfct_bitmask_maxbit(bits); ++bit) {
        if (nfct_bitmask_test_bit(bits, bit) == 0) continue;
        labels[bit / 8] = static_cast<std::uint8_t>(labels[bit / 8] | 1U << bit % 8);
        any = true;
    }
    if (!any) labels.clear();
    return labels;
}

ConntrackKey key_of(nf_conntrack const* object) {
    ConntrackKey key;
    key.source = address_of(object, ATTR_ORIG_IPV4_SRC, ATTR_ORIG_IPV6_SRC);
    key.destination = address_of(object, ATTR_ORIG_IPV4_DST, ATTR_ORIG_IPV6_DST);
    key.protocol = u8_of(object, ATTR_ORIG_L4PROTO);
    if (is_icmp(key.protocol)) {
        key.icmp_type = u8_of(object, ATTR_ICMP_TYPE);
        key.icmp_code = u8_of(object, ATTR_ICMP_CODE);
        key.source_port = key.destination_port = port_of(object, ATTR_ICMP_ID);
    } else {
        key.source_port = port_of(object, ATTR_ORIG_PORT_SRC);
        key.destination_port = port_of(object, ATTR_ORIG_PORT_DST);
    }
    using ZoneOf = ConntrackKey::ZoneOf;
    for (auto const [attribute, of] : {std::pair(ATTR_ZONE, ZoneOf::both),
                                       {ATTR_ORIG_ZONE, ZoneOf::original},
                                       {ATTR_REPL_ZONE, ZoneOf::reply}}) {
        if (nfct_attr_is_set(object, attribute) <= 0) continue;
        key.zone = nfct_get_attr_u16(object, attribute);
        if (key.zone != 0) key.zone_of = of;
        if (key.zone != 0) break;
    }
    return key;
}

void read_reply(nf_conntrack const* object, ConntrackEntry& entry) {
    entry.reply_source = address_of(object, ATTR_REPL_IPV4_SRC, ATTR_REPL_IPV6_SRC);
    entry.reply_destination = address_of(object, ATTR_REPL_IPV4_DST, ATTR_REPL_IPV6_DST);
    if (is_icmp(entry.key.protocol)) {
        // (The library gives the identifier of the one direction only.)
        entry.reply_source_port = entry.reply_destination_port = entry.key.source_port;
    } else {
        entry.reply_source_port = port_of(object, ATTR_REPL_PORT_SRC);
        entry.reply_destination_port = port_of(object, ATTR_REPL_PORT_DST);
    }
}

}  // namespace

Request make_request(int type, int flags, unsigned char family) {
    Request request(NLMSG_SPACE(sizeof(nfgenmsg)));
    auto& header = header_of(request);
    header.nlmsg_len = static_cast<std::uint32_t>(request.size());
    header.nlmsg_type = static_cast<std::uint16_t>(NFNL_SUBSYS_CTNETLINK << 8 | type);
    header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    static_cast<nfgenmsg*>(NLMSG_DATA(&header))->nfgen_family = family;
    return request;
}

Request dump_request(unsigned char family) {
    return make_request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, family);
}

Request dump_request(Address const& sender, Direction direction) {
    auto request = dump_request(family_of(sender));
    bool const original = direction == Direction::original;
    auto const bytes = sender.bytes();
    nest(request, original ? CTA_TUPLE_ORIG : CTA_TUPLE_REPLY, [&] {
        nest(request, CTA_TUPLE_IP, [&] {
            put(request, sender.is_ipv4() ? CTA_IP_V4_SRC : CTA_IP_V6_SRC,
                {reinterpret_cast<char const*>(bytes.data()), bytes.size()});
        });
    });
    nest(request, CTA_FILTER, [&] {
        put(request, original ? CTA_FILTER_ORIG_FLAGS : CTA_FILTER_REPLY_FLAGS,
            {reinterpret_cast<char const*>(&filter_by_sender), sizeof filter_by_sender});
    });
    return request;
}

Request create_request(ConntrackEntry const& entry, bool with_helper) {
    auto object = object_of(entry.key);
    auto* const raw = object.get();
    nfct_setobjopt(raw, NFCT_SOPT_SETUP_REPLY);
    set_translation(object, entry);
    set_protocol_state(raw, entry);
    set_labels(raw, entry.labels);
    nfct_set_attr_u32(raw, ATTR_STATUS, entry.status);
    nfct_set_attr_u32(raw, ATTR_TIMEOUT, std::max(entry.timeout_s, std::uint32_t{1}));
    nfct_set_attr_u32(raw, ATTR_MARK, entry.mark);
    if (with_helper && !entry.helper.empty()) {
        nfct_set_attr(raw, ATTR_HELPER_NAME, entry.helper.c_str());
    }
    return with_object(
        make_request(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL, family_of(entry.key.source)),
        object);
}

Request get_request(ConntrackKey const& key) {
    return with_object(make_request(IPCTNL_MSG_CT_GET, 0, family_of(key.source)), object_of(key));
}

Request delete_request(ConntrackKey const& key) {
    return with_object(make_request(IPCTNL_MSG_CT_DELETE, 0, family_of(key.source)),
                       object_of(key));
}

std::optional<ConntrackEntry> entry_of(nlmsghdr const* message, bool& carried) {
    carried = true;
    auto const object = make_object();
    auto const* const raw = object.get();
    if (nfct_nlmsg_parse(message, object.get()) < 0) return {};
    ConntrackEntry entry;
    entry.key = key_of(raw);
    carried = conntrack_carries(entry.key.protocol);
    if (!carried) return {};
    read_reply(raw, entry);
    entry.status = u32_of(raw, ATTR_STATUS) & conntrack_status_mask;
    entry.timeout_s = std::min(u32_of(raw, ATTR_TIMEOUT), conntrack_timeout_max_s);
    entry.mark = u32_of(raw, ATTR_MARK);
    entry.state = u8_of(raw, entry.key.protocol == IPPROTO_SCTP ? ATTR_SCTP_STATE : ATTR_TCP_STATE);
    entry.tcp_flags = {u8_of(raw, ATTR_TCP_FLAGS_ORIG), u8_of(raw, ATTR_TCP_FLAGS_REPL)};
    entry.tcp_scale = {u8_of(raw, ATTR_TCP_WSCALE_ORIG), u8_of(raw, ATTR_TCP_WSCALE_REPL)};
    entry.sctp_tags = {u32_of(raw, ATTR_SCTP_VTAG_ORIG), u32_of(raw, ATTR_SCTP_VTAG_REPL)};
    if (nfct_attr_is_set(raw, ATTR_HELPER_NAME) > 0) {
        entry.helper = static_cast<char const*>(nfct_get_attr(raw, ATTR_HELPER_NAME));
    }
    entry.labels = labels_of(raw);
    entry.sequence = {u32_of(raw, ATTR_ORIG_NAT_SEQ_CORRECTION_POS),
                      u32_of(raw, ATTR_ORIG_NAT_SEQ_OFFSET_BEFORE),
                      u32_of(raw, ATTR_ORIG_NAT_SEQ_OFFSET_AFTER),
                      u32_of(raw, ATTR_REPL_NAT_SEQ_CORRECTION_POS),
                      u32_of(raw, ATTR_REPL_NAT_SEQ_OFFSET_BEFORE),
                      u32_of(raw, ATTR_REPL_NAT_SEQ_OFFSET_AFTER)};
    return entry;
}

}  // namespace netmove::conntrack
