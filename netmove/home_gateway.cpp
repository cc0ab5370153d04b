#include "netmove/home_gateway.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/base64.hpp"
#include "core/log.hpp"
#include "core/sync.hpp"
#include "netmove/frame_fields.hpp"

namespace netmove {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr std::size_t solicitation_size = 24;
constexpr std::size_t advertisement_size = 16;

// Frames that one look takes in; the socket's buffer holds fewer.
constexpr int watched_frames_max = 4'096;
constexpr int watched_bytes = 512 * 1024;
// Frames that are answered in one go.
constexpr int answered_batch = 64;

bool is_arp(EthernetFrame const& frame) {
    return frame.tags == 0 && frame.ether_type == static_cast<unsigned>(EtherType::arp) &&
           is_arp_for_ipv4(frame.payload);
}

/// The ICMPv6 message of neighbour discovery in a frame; empty: it has none.
ByteView discovery_message(EthernetFrame const& frame) {
    auto const& packet = frame.payload;
    bool const fits = frame.tags == 0 &&
                      frame.ether_type == static_cast<unsigned>(EtherType::ipv6) &&
                      packet.size() >= ipv6_header_size && packet[0] >> 4 == 6 &&
                      packet[6] == next_is_icmpv6 && packet[7] == 255;
    if (!fits) return {};
    auto const size = std::min<std::size_t>(get16(packet, 4), packet.size() - ipv6_header_size);
    auto const message = packet.subspan(ipv6_header_size, size);
    if (message.size() < 8 || message[1] != 0) return {};
    switch (message[0]) {
        case router_solicitation:
            return message;
        case router_advertisement:
            return message.size() >= advertisement_size ? message : ByteView();
        case neighbour_solicitation:
        case neighbour_advert:
            return message.size() >= solicitation_size ? message : ByteView();
        default:
            return {};
    }
}

/// An advertisement as `to_json` has written it.
Result<Bytes> message_from(std::string const& base64) {
    TRY(auto bytes, core::from_base64(base64));
    if (bytes.size() <= router_message_bytes_max) return bytes;
    return fail(Errc::invalid, "a router advertisement of {} bytes", bytes.size());
}

Json neighbour_json(HomeGateways::Neighbour const& one) {
    return Json::object({{"address", one.address.text()}, {"mac", one.mac.text()}});
}

Result<HomeGateways::Neighbour> neighbour_from(Json const& json) {
    HomeGateways::Neighbour made;
    TRY(auto const address, json.text("address"));
    TRY(made.address, Address::parse(address));
    TRY(auto const mac, json.text("mac"));
    TRY(made.mac, MacAddress::parse(mac));
    return made;
}

}  // namespace

core::seconds HomeGateways::Router::lifetime() const {
    return core::seconds(message.size() < advertisement_size ? 0 : get16(message, 6));
}

void HomeGateways::note(Neighbour neighbour) {
    if (!neighbour.address.is_host() || !neighbour.mac.is_unicast()) return;
    std::erase_if(neighbours_,
                  [&](Neighbour const& one) { return one.address == neighbour.address; });
    if (neighbours_.size() >= home_neighbours_max) {
        // A gateway stays: it is what this is for.
        auto const other = std::ranges::find_if(
            neighbours_, [this](Neighbour const& one) { return !is_gateway(one); });
        neighbours_.erase(other == neighbours_.end() ? neighbours_.begin() : other);
    }
    neighbours_.push_back(std::move(neighbour));
}

void HomeGateways::note_used(MacAddress const& mac) {
    if (!mac.is_unicast() || std::ranges::find(used_, mac) != used_.end()) return;
    if (used_.size() >= home_gateways_max) used_.erase(used_.begin());
    used_.push_back(mac);
}

void HomeGateways::note_router(Neighbour at, ByteView message) {
    note(at);
    std::erase_if(routers_, [&at](Router const& one) { return one.at.address == at.address; });
    Router made{std::move(at), Bytes(message.begin(), message.end())};
    bool const stays = made.lifetime() > core::seconds(0) && made.at.address.is_link_local() &&
                       message.size() <= router_message_bytes_max;
    if (!stays) return;  // it is a router no more
    if (routers_.size() >= home_gateways_max) routers_.erase(routers_.begin());
    routers_.push_back(std::move(made));
}

void HomeGateways::learn_arp(EthernetFrame const& frame, MacAddress const& guest) {
    auto const& arp = frame.payload;
    if (frame.source == guest) {
        // A guest that confirms an address asks the station alone.
        bool const asks = get16(arp, 6) == 1 && frame.destination.is_unicast();
        if (asks) note({ipv4_at(arp, 24), frame.destination});
    } else if (std::ranges::equal(arp.subspan(8, 6), frame.source.bytes)) {
        note({ipv4_at(arp, 14), frame.source});
    }
}

void HomeGateways::learn_ipv6(EthernetFrame const& frame, MacAddress const& guest) {
    auto const message = discovery_message(frame);
    if (message.empty()) return;
    auto const type = message[0];
    if (frame.source == guest) {
        bool const asks = type == neighbour_solicitation && frame.destination.is_unicast();
        if (asks) note({ipv6_at(message, 8), frame.destination});
        return;
    }
    auto const source = ipv6_at(frame.payload, 8);
    if (type == router_advertisement) note_router({source, frame.source}, message);
    if (type == neighbour_solicitation) note({source, frame.source});
    if (type == neighbour_advert) {
        note({ipv6_at(message, 8), frame.source});
    }
}

void HomeGateways::learn(EthernetFrame const& frame, MacAddress const& guest) {
    if (is_arp(frame)) {
        learn_arp(frame, guest);
    } else {
        learn_ipv6(frame, guest);
    }
}

bool HomeGateways::is_gateway(Neighbour const& one) const {
    return std::ranges::find(used_, one.mac) != used_.end() ||
           std::ranges::any_of(routers_, [&one](Router const& router) { return router.at == one; });
}

std::vector<HomeGateways::Neighbour> HomeGateways::gateways() const {
    std::vector<Neighbour> found;
    for (auto const& one : neighbours_) {
        if (is_gateway(one)) found.push_back(one);
    }
    return found;
}

bool HomeGateways::knows(Address::Family family) const {
    return std::ranges::any_of(neighbours_, [&](Neighbour const& one) {
        return one.address.family() == family && is_gateway(one);
    });
}

std::vector<Bytes> HomeGateways::answers(EthernetFrame const& frame,
                                         MacAddress const& guest) const {
    if (frame.source != guest) return {};
    auto const gateway = [this](Address const& address) {
        return std::ranges::find_if(neighbours_, [&](Neighbour const& one) {
            return one.address == address && is_gateway(one);
        });
    };
    if (is_arp(frame)) {
        auto const at = gateway(ipv4_at(frame.payload, 24));
        if (at == neighbours_.end() || get16(frame.payload, 6) != 1) return {};
        return {arp_answer(at->mac, at->address, guest, ipv4_at(frame.payload, 14))};
    }
    auto const message = discovery_message(frame);
    if (message.empty()) return {};
    if (message[0] == router_solicitation) return advertisements();
    if (message[0] != neighbour_solicitation) return {};
    auto const source = ipv6_at(frame.payload, 8);
    auto const at = gateway(ipv6_at(message, 8));
    // A question from the unspecified address is one of duplicate address detection.
    if (at == neighbours_.end() || !source.is_host()) return {};
    return {router_neighbour_answer(at->mac, at->address, guest, source)};
}

std::vector<Bytes> HomeGateways::advertisements() const {
    std::vector<Bytes> out;
    for (auto const& router : routers_) {
        out.push_back(router_announcement(router.at.mac, router.at.address, router.message));
    }
    return out;
}

std::optional<core::seconds> HomeGateways::interval() const {
    if (routers_.empty()) return {};
    auto shortest = advertisement_interval_max;
    for (auto const& router : routers_) shortest = std::min(shortest, router.lifetime() / 3);
    return std::max(shortest, advertisement_interval_min);
}

Json HomeGateways::to_json() const {
    Json used = Json::array();
    for (auto const& mac : used_) used.add(mac.text());
    Json known = Json::array();
    for (auto const& one : gateways()) known.add(neighbour_json(one));
    Json routers = Json::array();
    for (auto const& router : routers_) {
        routers.add(neighbour_json(router.at).set("message", core::to_base64(router.message)));
    }
    return Json::object({{"used", used}, {"gateways", known}, {"routers", routers}});
}

Result<HomeGateways> HomeGateways::from_json(Json const& json) {
    HomeGateways made;
    for (auto const& one : json["used"].elements()) {
        TRY(auto const mac, MacAddress::parse(one.text_or("")));
        made.note_used(mac);
    }
    for (auto const& one : json["routers"].elements()) {
        TRY(auto at, neighbour_from(one));
        TRY(auto const base64, one.text("message"));
        TRY(auto const message, message_from(base64));
        made.note_router(std::move(at), message);
    }
    for (auto const& one : json["gateways"].elements()) {
        TRY(auto at, neighbour_from(one));
        made.note(std::move(at));
    }
    return made;
}

Result<GatewayWatcher> GatewayWatcher::open(std::string const& tap) {
    // ARP, and the ICMPv6 types 134 to 136, without a VLAN tag.
    constexpr auto load = [](int size, std::uint32_t at) {
        return sock_filter{static_cast<std::uint16_t>(BPF_LD | BPF_ABS | size), 0, 0, at};
    };
    constexpr auto jump = [](int test, std::uint32_t k, std::uint8_t when_true,
                             std::uint8_t when_false) {
        return sock_filter{static_cast<std::uint16_t>(BPF_JMP | BPF_K | test), when_true,
                           when_false, k};
    };
    std::array<sock_filter, 12> code{
        load(BPF_W, static_cast<std::uint32_t>(SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)),
        jump(BPF_JEQ, 0, 0, 9),
        load(BPF_H, 12),
        jump(BPF_JEQ, ETH_P_ARP, 6, 0),
        jump(BPF_JEQ, ETH_P_IPV6, 0, 6),
        load(BPF_B, 14 + 6),
        jump(BPF_JEQ, next_is_icmpv6, 0, 4),
        load(BPF_B, 14 + ipv6_header_size),
        jump(BPF_JGE, router_advertisement, 0, 2),
        jump(BPF_JGT, neighbour_advert, 1, 0),
        sock_filter{BPF_RET | BPF_K, 0, 0, 2'048},
        sock_filter{BPF_RET | BPF_K, 0, 0, 0}};
    sock_fprog const program{static_cast<unsigned short>(code.size()), code.data()};
    core::Fd made(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(if_nametoindex(tap.c_str()));
    bool const opened =
        made && where.sll_ifindex != 0 &&
        ::setsockopt(made.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 &&
        ::setsockopt(made.get(), SOL_SOCKET, SO_RCVBUF, &watched_bytes, sizeof watched_bytes) ==
            0 &&
        ::bind(made.get(), reinterpret_cast<sockaddr const*>(&where), sizeof where) == 0;
    if (!opened) return core::fail_errno(errno, "cannot watch {} for the guest's gateway", tap);
    return GatewayWatcher(std::move(made));
}

void GatewayWatcher::take_in(HomeGateways& into, MacAddress const& guest) {
    std::array<std::uint8_t, 2'048> buffer;
    for (int frames = 0; frames < watched_frames_max; ++frames) {
        auto const got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0) return;
        auto const frame = parse_ethernet(ByteView(buffer).first(static_cast<std::size_t>(got)));
        if (frame) into.learn(*frame, guest);
    }
}

Result<> GatewayWatcher::ask_routers(MacAddress const& own) {
    auto const question = router_question(own);
    if (::send(socket_.get(), question.data(), question.size(), 0) < 0) {
        return core::fail_errno(errno, "cannot ask for the routers of the guest's home network");
    }
    return {};
}

core::Task<void> GatewayResponder::run(std::stop_token token) {
    auto const for_ever = core::Deadline::never(token);
    auto const interval = gateways_.interval();
    auto next = core::Clock::now();
    while (!token.stop_requested()) {
        if (interval && core::Clock::now() >= next) {
            advertise();
            next = core::Clock::now() + *interval;
        }
        auto const until = interval ? core::Deadline(next, token) : for_ever;
        auto const polled = co_await loop_.poll(tap_.descriptor(0), POLLIN, until);
        if (!polled && polled.error().code == Errc::timed_out) continue;
        if (!polled) break;
        auto const done = answer_some();
        if (done) continue;
        core::log::warning("anchor tap={} {}", tap_.name(), done.error().sentence());
        if (!co_await core::sleep_for(loop_, core::seconds(1), token)) break;
    }
}

Result<bool> GatewayResponder::answer_some() {
    TRY(auto const header, tap_.vnet_hdr_size());
    for (int frames = 0; frames < answered_batch; ++frames) {
        TRY(auto const size, tap_.read_raw(0, buffer_));
        if (size == 0) return false;
        if (size <= header) continue;
        auto const frame = parse_ethernet(ByteView(buffer_).subspan(header, size - header));
        if (!frame) continue;
        for (auto const& answer : gateways_.answers(*frame, guest_)) {
            TRY_VOID(tap_.write_frame(answer));
            ++answered_;
        }
    }
    return true;
}

void GatewayResponder::advertise() {
    for (auto const& frame : gateways_.advertisements()) {
        auto const written = tap_.write_frame(frame);
        if (written) continue;
        core::log::warning("anchor tap={} {}", tap_.name(), written.error().sentence());
    }
}

}  // namespace netmove
