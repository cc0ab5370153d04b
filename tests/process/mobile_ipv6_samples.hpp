// Packets of Mobile IPv6 that other decoders read: each message with each of its options and flags,
// and packets in packets. Used by the tests with tshark and with scapy.
#pragma once

#include <vector>

#include "netmove/mobile_ipv6/packet.hpp"
#include "tests/process/qmp_support.hpp"
#include "tests/support/command.hpp"
#include "tests/support/mobile_ipv6_bytes.hpp"

namespace mobile {

using namespace netmove::mobile_ipv6;

inline Address const home = ip("2001:db8:1::100");
inline Address const agent = ip("2001:db8:1::1");
inline Address const care_of = ip("2001:db8:2::1");
inline Address const ipv4_care_of = ip("198.51.100.7");
inline Address const ipv4_agent = ip("192.0.2.1");

inline std::vector<BindingUpdate> updates() {
    std::vector<BindingUpdate> all;
    for (unsigned choice = 0; choice < 8; ++choice) {
        BindingUpdate one{.sequence = static_cast<std::uint16_t>(0xff00 + choice),
                          .lifetime = LifetimeUnits(15)};
        if (choice & 1) one.alternate_care_of = care_of;
        if (choice & 2) one.ipv4_home = Ipv4HomeAddress{ip("203.0.113.77"), 24, choice == 3};
        if (choice & 4) one.ipv4_care_of = ipv4_care_of;
        all.push_back(one);
    }
    for (auto const flag :
         {&BindingUpdate::acknowledge, &BindingUpdate::home_registration,
          &BindingUpdate::link_local_compatible, &BindingUpdate::key_management_mobility,
          &BindingUpdate::force_udp, &BindingUpdate::tlv_header}) {
        BindingUpdate one{.acknowledge = false, .home_registration = false};
        one.*flag = true;
        all.push_back(one);
    }
    all.push_back({.sequence = 0xffff, .lifetime = lifetime_infinite});
    return all;
}

inline std::vector<BindingAcknowledgement> acknowledgements() {
    std::vector<BindingAcknowledgement> all;
    for (unsigned choice = 0; choice < 8; ++choice) {
        BindingAcknowledgement one{.sequence = static_cast<std::uint16_t>(0xff00 + choice),
                                   .lifetime = LifetimeUnits(15)};
        if (choice & 1) one.refresh_advice = LifetimeUnits(0xfedc);
        if (choice & 2) one.ipv4_home = Ipv4Acknowledgement{{}, 24, ip("203.0.113.77")};
        if (choice & 4) one.nat = NatDetection{choice == 4, 0xfffffffe};
        all.push_back(one);
    }
    for (unsigned const status : {1U, 128U, 135U, 174U, 255U}) {
        all.push_back({.status = BindingStatus{static_cast<std::uint8_t>(status)}});
    }
    for (unsigned const status : {128U, 133U, 255U}) {
        all.push_back({.ipv4_home = Ipv4Acknowledgement{
                           Ipv4Status{static_cast<std::uint8_t>(status)}, 32, {}}});
    }
    all.push_back({.key_management_mobility = true, .lifetime = lifetime_infinite});
    all.push_back({.tlv_header = true});
    return all;
}

/// Each message in each way of addressing that it has.
inline std::vector<SignallingPacket> signalling() {
    std::vector<SignallingPacket> all;
    for (auto const& message : updates()) {
        all.push_back({care_of, agent, home, {}, message});
        all.push_back({home, agent, {}, {}, message});
    }
    std::vector<Message> answers{BindingError{2, home}, BindingError{}, BindingRefreshRequest{},
                                 UnknownMessage{200}};
    for (auto const& message : acknowledgements()) answers.emplace_back(message);
    for (auto const& message : answers) {
        all.push_back({agent, care_of, {}, home, message});
        all.push_back({agent, home, {}, {}, message});
    }
    return all;
}

inline Bytes inner_ipv6(std::size_t payload) {
    return bytes(fmt::format("6b900000 {:04x} 3b 3f 20010db8000100000000000000000100 "
                             "20010db8000900000000000000000009",
                             payload)) +
           Bytes(payload, 0x5a);
}
inline Bytes inner_ipv4(std::size_t payload) {
    auto packet =
        bytes(fmt::format("45ba {:04x} 0007 4000 3f fd 0000 cb00714d c0000263", payload + 20));
    auto const sum = netmove::internet_checksum(packet);
    packet[10] = static_cast<std::uint8_t>(sum >> 8);
    packet[11] = static_cast<std::uint8_t>(sum & 0xff);
    return packet + Bytes(payload, 0x5a);
}

inline Bytes outer(Bytes const& inner) {
    auto const header = outer_header(agent, care_of, inner);
    return Bytes(header.begin(), header.end()) + inner;
}
inline Bytes outer_ipv4(Bytes const& inner, std::uint16_t port, std::uint16_t to_port) {
    return outer_ipv4_header({ipv4_agent, port}, {ipv4_care_of, to_port}, inner) + inner;
}

inline std::string hex(ByteView bytes) {
    std::string text;
    for (auto const byte : bytes) text += fmt::format("{:02x}", byte);
    return text;
}

}  // namespace mobile
