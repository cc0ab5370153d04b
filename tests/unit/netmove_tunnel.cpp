// The pure parts of the tunnel: what is in a record (netmove/tunnel/fragment.hpp), what is outside
// (datagram.hpp), and the values of tunnel.hpp.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "netmove/tunnel/datagram.hpp"
#include "netmove/tunnel/fragment.hpp"
#include "netmove/tunnel/tunnel.hpp"

namespace netmove_tunnel_cases {

namespace {

using namespace netmove;
using namespace netmove::tunnel;

struct Records final : PlainSink {
    void put(ByteView plain) override { all.emplace_back(plain.begin(), plain.end()); }
    std::vector<Bytes> all;
};
struct Frames final : FrameSink {
    void frame(FrameView frame) override {
        Bytes one(frame.vnet.begin(), frame.vnet.end());
        one.insert(one.end(), frame.ethernet.begin(), frame.ethernet.end());
        all.push_back(std::move(one));
    }
    std::vector<Bytes> all;
};

struct Sent {
    Bytes vnet;
    Bytes ethernet;
    [[nodiscard]] Bytes content() const {
        Bytes all = vnet;
        all.insert(all.end(), ethernet.begin(), ethernet.end());
        return all;
    }
};

Sent frame_of(std::size_t size, bool vnet, std::uint8_t seed) {
    Sent sent{Bytes(vnet ? virtio_header_size : 0, 1), Bytes(size)};
    for (auto& byte : sent.ethernet) byte = seed += 31;
    return sent;
}

std::vector<Bytes> contents(std::vector<Sent> const& frames) {
    std::vector<Bytes> out;
    for (auto const& one : frames) out.push_back(one.content());
    return out;
}

std::vector<Bytes> pack(std::vector<Sent> const& frames, std::size_t room) {
    Bytes scratch(datagram_limit);
    Packer packer(scratch);
    packer.set_room(room);
    Records records;
    for (auto const& one : frames) packer.add({one.vnet, one.ethernet}, records);
    packer.finish(records);
    return records.all;
}

constexpr core::Clock::time_point start{};

}  // namespace

TEST_CASE("tunnel: frames of every size come out of records as they went in", "[tunnel]") {
    std::vector<Sent> sent;
    std::uint8_t seed = 0;
    constexpr std::size_t sizes[] = {14, 60, 61, 1000, 1129, 1130, 1131, 1200, 1514, 9014, 65550};
    for (auto const size : sizes) {
        for (bool const vnet : {false, true}) sent.push_back(frame_of(size, vnet, ++seed));
    }
    sent.push_back(frame_of(tap_frame_max, true, 7));
    for (std::size_t const room :
         {plain_min, std::size_t{1155}, std::size_t{1427}, datagram_limit}) {
        auto const records = pack(sent, room);
        Reassembly reassembly;
        Frames got;
        for (auto const& one : records) {
            CHECK(one.size() <= room);
            REQUIRE(reassembly.read(one, 1, start, got));
        }
        CHECK(got.all == contents(sent));
        CHECK(reassembly.bytes() == 0);
        CHECK(reassembly.incomplete() == 0);
    }
}

TEST_CASE("tunnel: records of a burst are full, and small frames share one", "[tunnel]") {
    std::vector<Sent> const small(20, frame_of(60, false, 1));
    CHECK(pack(small, 1427).size() == 1);
    std::vector<Sent> const large(20, frame_of(1514, true, 1));
    auto const records = pack(large, 1427);
    CHECK(records.size() == 22);  // one by one it would be 40
    // UDP_SEGMENT needs one size: at most a piece too short to be worth its header is left out.
    CHECK(std::all_of(records.begin(), records.end() - 1,
                      [](auto const& one) { return one.size() > 1427 - 45; }));
}

TEST_CASE("tunnel: parts in any order make a frame, and a missing one does not", "[tunnel]") {
    auto const sent = frame_of(20'000, true, 3);
    auto const other = frame_of(9'000, false, 4);
    auto records = pack({sent, other}, 1155);
    std::mt19937 random(5);
    for (int round = 0; round < 20; ++round) {
        std::ranges::shuffle(records, random);
        Reassembly reassembly;
        Frames got;
        for (auto const& one : records) REQUIRE(reassembly.read(one, 1, start, got));
        std::ranges::sort(got.all, {}, &Bytes::size);
        CHECK(got.all == contents({other, sent}));
        CHECK_FALSE(reassembly.bytes() != 0);
    }
    Reassembly reassembly;
    Frames got;
    records.pop_back();
    for (auto const& one : records) REQUIRE(reassembly.read(one, 1, start, got));
    CHECK(got.all.size() < 2);
    CHECK(reassembly.bytes() > 0);
    reassembly.expire(start + std::chrono::milliseconds{1'001});
    CHECK(reassembly.bytes() == 0);
    CHECK(reassembly.incomplete() + got.all.size() == 2);
    CHECK_FALSE(reassembly.holds_memory());
}

TEST_CASE("tunnel: what incomplete frames take is bounded", "[tunnel]") {
    ReassemblyLimits const limits;
    Reassembly reassembly;
    Frames got;
    for (int i = 0; i < 200; ++i) {
        auto const first = pack({frame_of(60'000, false, 1)}, 1155).front();
        // Each from another session, so that their numbers do not meet.
        REQUIRE(reassembly.read(first, static_cast<std::uint64_t>(i), start, got));
        CHECK(reassembly.bytes() <= limits.bytes);
    }
    CHECK(reassembly.incomplete() > 190);
    CHECK(got.all.empty());
}

TEST_CASE("tunnel: records that are not as they should be are refused", "[tunnel]") {
    auto const records = pack({frame_of(3'000, true, 1), frame_of(60, false, 2)}, 1155);
    Frames got;
    for (auto const& good : records) {
        for (std::size_t cut = 2; cut < good.size(); ++cut) {
            Reassembly reassembly;
            (void)reassembly.read(ByteView(good).first(cut), 1, start, got);  // within its bytes
        }
    }
    Reassembly reassembly;
    REQUIRE(reassembly.read(records[0], 1, start, got));
    CHECK_FALSE(reassembly.read(records[0], 1, start, got));  // the same bytes again
    CHECK(reassembly.bytes() == 0);
    CHECK_FALSE(reassembly.read(Bytes{1, 0, 0, 5, 1, 2, 3, 4, 5}, 1, start, got));
    CHECK_FALSE(reassembly.read(Bytes{9}, 1, start, got));
    CHECK_FALSE(reassembly.read({}, 1, start, got));
}

TEST_CASE("tunnel: pings are written as they are read, and padded", "[tunnel]") {
    Bytes room(100, 0xff);
    write_ping({true, 0x01020304, 1472}, room);
    CHECK(std::ranges::count(room, 0) == 93);
    auto const read = parse_ping(room);
    REQUIRE(read);
    CHECK(read->answer);
    CHECK(read->token == 0x01020304);
    CHECK(read->datagram_max == 1472);
    CHECK_FALSE(parse_ping(ByteView(room).first(6)));
    room[0] = 1;
    CHECK_FALSE(parse_ping(room));
}

TEST_CASE("tunnel: only records, hints and handshakes are datagrams", "[tunnel]") {
    Bytes bytes(8 + 13 + 30);
    std::ranges::copy(id_bytes(0x0123456789abcdef), bytes.begin());
    bytes[8] = 23;
    bytes[9] = 0xfe;
    bytes[10] = 0xfd;
    bytes[12] = 1;
    bytes[18] = 9;
    bytes[20] = 30;
    auto const application = parse_datagram(bytes);
    REQUIRE(application);
    CHECK(application->id == 0x0123456789abcdef);
    CHECK(application->kind == DatagramKind::application);
    CHECK(application->sequence == 9);
    CHECK(application->record.size() == 43);
    bytes[12] = 0;  // epoch 0: in clear
    CHECK_FALSE(parse_datagram(bytes));
    bytes[12] = 1;
    bytes[8] = 21;  // an alert
    CHECK_FALSE(parse_datagram(bytes));
    bytes[8] = 22;
    CHECK(parse_datagram(bytes)->kind == DatagramKind::handshake);
    bytes[9] = 3;  // TLS
    CHECK_FALSE(parse_datagram(bytes));
    auto const hint = parse_datagram(hint_bytes(5));
    REQUIRE(hint);
    CHECK(hint->kind == DatagramKind::hint);
    CHECK(hint->id == 5);
    CHECK_FALSE(parse_datagram(id_bytes(5)));
}

TEST_CASE("tunnel: endpoints and keys have one text", "[tunnel]") {
    for (auto const* text : {"192.0.2.1:4791", "[2001:db8::1]:1"}) {
        CHECK(Endpoint::parse(text).value().text() == text);
    }
    for (auto const* text :
         {"", "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "2001:db8::1:80",
          "[192.0.2.1]:80", "[::1]", "[::1]80", "a:80", "192.0.2.1:80x"}) {
        CAPTURE(text);
        CHECK_FALSE(Endpoint::parse(text));
    }
    auto const key = Key::generate();
    CHECK(key.secret.size() == 64);
    auto const again = Key::from_json(key.to_json()).value();
    CHECK(again.id == key.id);
    CHECK(again.secret == key.secret);
    CHECK(Key::generate().id != key.id);
    CHECK_FALSE(Key::from_json(core::Json::object({{"id", "12"}, {"secret", key.secret}})));
    CHECK_FALSE(Key::from_json(core::Json::object({{"id", "0000000000000012"}, {"secret", "00"}})));
}

}  // namespace netmove_tunnel_cases
