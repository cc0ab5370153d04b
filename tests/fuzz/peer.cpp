// Fuzzing of the messages of a remote peer (channel/connection.hpp, channel/protocol.hpp, guest/)
// with libFuzzer. Each line of the input becomes one message with its right length. After a first
// byte of 0 the input is the stream itself. Invariant: accepted values are within their limits,
// safe to be used in paths, and unchanged by being sent on; and every answer is a whole message.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "core/loop.hpp"
#include "core/sync.hpp"
#include "sidecar/channel/connection.hpp"
#include "sidecar/channel/protocol_anchor.hpp"
#include "sidecar/channel/protocol_vtep.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "storage/limits.hpp"
#include "storage/verify.hpp"

namespace {

using core::Deadline;
using core::Errc;
using core::Json;
using core::Result;
using core::Task;

void must(bool holds) {
    if (!holds) std::abort();
}

std::string framed(std::string_view text) {
    std::string frame;
    for (int shift = 24; shift >= 0; shift -= 8) {
        frame.push_back(static_cast<char>(text.size() >> shift & 0xFF));
    }
    return frame.append(text);
}

/// The peer: what it sends is fixed beforehand, and what it receives is kept.
class Script : public core::Stream {
public:
    Script(std::string sends, std::string& gets) : sends_(std::move(sends)), gets_(gets) {}
    Task<Result<std::size_t>> read_some(std::span<std::byte> buffer, Deadline) override {
        auto const size = std::min(buffer.size(), sends_.size() - at_);
        if (size == 0) co_return core::fail(Errc::closed, "the script is over");
        auto const from = std::as_bytes(std::span(sends_)).subspan(at_, size);
        std::copy(from.begin(), from.end(), buffer.begin());
        at_ += size;
        co_return size;
    }
    Task<Result<>> write_all(std::span<std::byte const> bytes, Deadline) override {
        gets_.append(reinterpret_cast<char const*>(bytes.data()), bytes.size());
        co_return Result<>{};
    }
    [[nodiscard]] std::string peer() const override { return "fuzzer"; }

private:
    std::string sends_;
    std::string& gets_;
    std::size_t at_ = 0;
};

sidecar::HostMaps const& maps() {
    static sidecar::HostMaps const made{.paths = {{"/", "/root"}, {"/srv/vm", "/data"}},
                                        .bridges = {{"br0", "br1"}}};
    return made;
}

void check_error(core::Error const& error) { must(!error.sentence().empty()); }

void check_disk(sidecar::MovedDisk const& disk) {
    must(disk.format == "raw" || disk.format == "qcow2");
    must(disk.path.starts_with('/'));
    must(sidecar::map_path(maps(), disk.path).starts_with('/'));
}

void check_interface(netmove::GuestInterface const& interface) {
    must(!interface.tap.empty() && interface.tap.find('/') == std::string::npos);
    must(interface.bridge.find('/') == std::string::npos);
    must(interface.queues >= 1);
    (void)sidecar::map_bridge(maps(), interface.bridge);
    auto const again = netmove::GuestInterface::from_json(interface.to_json());
    must(again.has_value() && again->to_json().dump() == interface.to_json().dump());
}

/// The destination's checks of a description, before it touches anything.
void check_description(Json const& json) {
    auto const description = sidecar::Description::from_json(json);
    if (!description) return check_error(description.error());
    must(description->guest.find('/') == std::string::npos && description->guest != "..");
    must(description->migration_id.find('/') == std::string::npos &&
         description->migration_id != "..");
    for (auto const& disk : description->disks) check_disk(disk);
    for (auto const& disk : description->shared) check_disk(disk);
    for (auto const& file : description->files) must(file.path.starts_with('/'));
    std::vector<qmp::TapDescriptors> taps;
    int number = qmp::first_tap_fd_in_qemu;
    for (auto const& interface : description->interfaces) {
        check_interface(interface);
        qmp::TapDescriptors one{interface.netdev, {}};
        for (int queue = 0; queue < interface.queues; ++queue) one.fds.push_back(number++);
        taps.push_back(std::move(one));
    }
    auto const text = description->to_json().dump();
    auto const again = sidecar::Description::from_json(description->to_json());
    must(again.has_value() && again->to_json().dump() == text);
    auto const line = sidecar::map_command_line(maps(), *description, taps);
    if (!line) return check_error(line.error());
    auto const reread = qmp::CommandLine::parse(line->line.argv());
    must(reread.has_value() && reread->argv() == line->line.argv());
    must(reread->incoming() == "defer" && reread->stopped_at_start());
}

void check_hash_request(sidecar::protocol::Hash const& request) {
    must(request.disk < storage::limits::disks_max && !request.ranges.empty());
    must(request.ranges.size() <= storage::limits::hash_request_ranges_max);
    constexpr std::uint64_t disk_bytes = std::uint64_t{1} << 40;
    if (!storage::check_ranges(request.ranges, disk_bytes)) return;
    std::uint64_t end = 0;
    for (auto const& range : request.ranges) {
        must(range.offset >= end && range.end() > range.offset && range.end() <= disk_bytes);
        end = range.end();
    }
    must(storage::total_bytes(request.ranges) <= storage::limits::hash_request_bytes_max);
    auto const again = sidecar::protocol::Hash::from_json(request.to_json());
    must(again.has_value() && again->ranges == request.ranges && again->disk == request.disk);
}

/// Accepted values are unchanged by being sent on.
template <class Request>
void check_round_trip(Request const& request) {
    auto packed = sidecar::protocol::pack(request);
    auto const text = packed.json.dump();
    auto const bytes = packed.bytes;
    auto const again = sidecar::protocol::unpack<Request>(packed.json, std::move(packed.bytes));
    must(again.has_value());
    auto const second = sidecar::protocol::pack(*again);
    must(second.json.dump() == text && second.bytes == bytes);
}

void check(auto const&) {}
void check(sidecar::protocol::Check const& request) { check_description(request.description); }
void check(sidecar::protocol::Prepare const& request) { check_description(request.description); }
void check(sidecar::protocol::Fire const& request) {
    for (auto const& interface : request.interfaces) check_interface(interface);
}
void check(sidecar::protocol::Hash const& request) { check_hash_request(request); }
void check(sidecar::protocol::SendFile const& request) { check_round_trip(request); }
void check(sidecar::protocol::FindShared const& request) {
    for (auto const& image : request.images) must(image.path.starts_with('/'));
    check_round_trip(request);
}
void check_anchor(std::string const& guest, std::vector<sidecar::protocol::AnchorEnd> const& ends) {
    must(guest.find('/') == std::string::npos && !guest.starts_with('.') && !guest.empty());
    for (auto const& end : ends) {
        must(end.tap.find('/') == std::string::npos && end.mac.is_unicast() && end.mtu > 0);
        must(!end.local || end.local->validate().has_value());
        for (auto const& address : end.addresses) must(address.is_host());
        must(end.home_bridge.find('/') == std::string::npos);
        if (!end.stand_in) continue;
        check_interface(*end.stand_in);
        must(end.stand_in->mac == end.mac && !end.stand_in->bridge.empty());
    }
}
void check(sidecar::protocol::AnchorPrepare const& request) {
    check_anchor(request.guest, request.ends);
    must(request.migration_id.find('/') == std::string::npos);
    for (auto const& end : request.ends) must(end.key.has_value());
}
void check(sidecar::protocol::AnchorReceive const& request) {
    check_anchor(request.guest, request.ends);
    must(request.migration_id.find('/') == std::string::npos);
}
void check(sidecar::protocol::AnchorPoint const& request) {
    check_anchor(request.guest, request.ends);
}
void check(sidecar::protocol::AnchorKeep const& request) {
    check_anchor(request.guest, request.ends);
}
void check(sidecar::protocol::AnchorEndStandIn const& request) {
    check_anchor(request.guest, request.ends);
}
void check(sidecar::protocol::AnchorEndAway const& request) {
    check_anchor(request.guest, request.ends);
}
void check(sidecar::protocol::AnchorStandIn const& request) {
    check_anchor(request.guest, {});
    for (auto const& interface : request.interfaces) {
        check_interface(interface);
        must(!interface.bridge.empty());
    }
}
void check(sidecar::protocol::AnchorLeave const& request) { check_anchor(request.guest, {}); }
void check(sidecar::protocol::AnchorRelease const& request) { check_anchor(request.guest, {}); }
void check(sidecar::protocol::HashFile const& request) {
    must(request.path.starts_with('/'));
    must(request.length <= sidecar::limits::compared_part_bytes_max);
}

class Receiver : public sidecar::Handler {
public:
    Task<Result<sidecar::protocol::Packed>> handle(sidecar::Connection& from,
                                                   sidecar::protocol::Call call) override {
        using namespace sidecar::protocol;
        switch (from.other()) {
            case Role::command:
                co_return take<FromCommand>(std::move(call));
            case Role::source:
                co_return take<FromSource>(std::move(call));
            case Role::replication_source:
                co_return take<FromReplicationSource>(std::move(call));
            case Role::vtep_source:
                co_return take<FromVtepSource>(std::move(call));
            case Role::anchor_source:
                co_return take<FromAnchorSource>(std::move(call));
            case Role::local:
                co_return take<FromLocal>(std::move(call));
            case Role::sidecar:
                must(call.verb == Verb::progress);
                co_return Packed{};
            case Role::destination:
                break;
        }
        must(false);  // may_ask() should have refused it
        co_return Packed{};
    }

private:
    template <class Variant>
    Result<sidecar::protocol::Packed> take(sidecar::protocol::Call call) {
        auto const request = sidecar::protocol::parse<Variant>(std::move(call));
        if (!request) {
            check_error(request.error());
            return std::unexpected(request.error());
        }
        return std::visit(
            [](auto const& one) {
                check(one);
                check_round_trip(one);
                return sidecar::protocol::pack(one);
            },
            *request);
    }
};

/// The other direction: the peer's answers may be wrong too.
template <class Request>
Task<void> ask(sidecar::Connection& connection, Request request) {
    auto const answer = co_await connection.request(std::move(request), Deadline::never());
    if (!answer) check_error(answer.error());
    if (answer) check_round_trip(*answer);
}

/// The greeting that opens a connection, before there is a Connection.
Task<void> greet(std::string sends) {
    std::string gets;
    sidecar::Messages messages(std::make_unique<Script>(std::move(sends), gets));
    auto const message = co_await messages.receive(Deadline::never());
    if (!message) co_return;
    if (auto const hello = sidecar::protocol::Hello::from_json(message->json)) {
        must(hello->guest.find('/') == std::string::npos);
        check_round_trip(*hello);
    }
    if (auto const welcome = sidecar::protocol::Welcome::from_json(message->json)) {
        check_round_trip(*welcome);
    }
    (void)sidecar::protocol::Refusal::from_json(message->json);
}

Task<void> converse(core::Loop& loop, sidecar::protocol::Role role, std::string sends,
                    std::string& gets) {
    Receiver receiver;
    auto messages =
        std::make_unique<sidecar::Messages>(std::make_unique<Script>(std::move(sends), gets));
    sidecar::Connection connection(loop, std::move(messages), receiver, role);
    core::TaskGroup scope(loop);
    // With the ids 1 to 7.
    scope.spawn(ask(connection, sidecar::protocol::Prepare{Json::object(), ""}));
    scope.spawn(ask(connection, sidecar::protocol::Check{Json::object()}));
    scope.spawn(ask(connection, sidecar::protocol::ReturnFrames{}));
    scope.spawn(ask(connection, sidecar::protocol::Commit{}));
    scope.spawn(ask(connection, sidecar::protocol::ReplicateBegin{}));
    scope.spawn(ask(connection, sidecar::protocol::HashFile{"/x", 0, 0}));
    auto const peer = netmove::tunnel::Endpoint::parse("192.0.2.2:4791");
    scope.spawn(ask(connection, sidecar::protocol::AnchorStandIn{"web1", {}, "", *peer, {}}));
    co_await connection.run({});
    co_await scope.join();
    must(!connection.open() && !connection.ended_because().what.empty());
}

void check_sent(std::string_view rest) {
    while (!rest.empty()) {
        must(rest.size() > 4);
        std::size_t length = 0;
        for (int i = 0; i < 4; ++i) {
            length = length << 8 | static_cast<unsigned char>(rest[static_cast<std::size_t>(i)]);
        }
        rest.remove_prefix(4);
        auto const kind = length >> 24;
        length &= 0xFFFFFF;
        must(kind <= 1 && length <= sidecar::limits::message_bytes_max + 4);
        must(length <= rest.size());
        if (kind == 0) must(Json::parse(rest.substr(0, length)).has_value());
        rest.remove_prefix(length);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    static auto const loop = core::Loop::create();
    must(loop.has_value());
    std::string_view rest(reinterpret_cast<char const*>(data), size);
    std::string sends;
    if (rest.starts_with('\0')) {
        sends = rest.substr(1);
        rest = {};
    }
    while (!rest.empty()) {
        auto const end = std::min(rest.find('\n'), rest.size());
        sends += framed(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    using sidecar::protocol::Role;
    (*loop)->run(greet(sends));
    for (auto const role :
         {Role::command, Role::source, Role::replication_source, Role::vtep_source,
          Role::anchor_source, Role::local, Role::destination, Role::sidecar}) {
        std::string gets;
        (*loop)->run(converse(**loop, role, sends, gets));
        check_sent(gets);
    }
    return 0;
}
