// The file of a TSIG key, names, and the messages to and from a DNS server. The expected bytes of
// an update are those that nsupdate(1) of BIND 9.18 sent for the same change.
#include <catch2/catch.hpp>

#include <sys/stat.h>

#include <algorithm>

#include "netmove/dns/message.hpp"
#include "netmove/dns/primary.hpp"
#include "tests/support/command.hpp"

namespace dns_message_cases {

namespace {

using namespace netmove::dns;
using netmove::Address;
using Bytes = std::vector<std::uint8_t>;

constexpr char const* secret = "bXNzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=";
TsigKey const key{"mover.", TsigAlgorithm::hmac_sha256, secret};

std::string file(std::string const& name, std::string const& algorithm, std::string const& value) {
    return fmt::format("key \"{}\" {{\n\talgorithm {};\n\tsecret \"{}\";\n}};\n", name, algorithm,
                       value);
}

Records records(std::vector<std::string> const& addresses, std::uint32_t ttl = 77) {
    Records made;
    for (auto const& text : addresses) made.add(Address::parse(text).value());
    if (made.has(Address::Family::ipv4)) made.ttl_ipv4 = ttl;
    if (made.has(Address::Family::ipv6)) made.ttl_ipv6 = ttl;
    return made;
}

Bytes bytes_of(std::string const& hex) {
    Bytes made;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        made.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    return made;
}

std::string hex_of(std::span<std::uint8_t const> bytes) {
    std::string made;
    for (auto const byte : bytes) made += fmt::format("{:02x}", byte);
    return made;
}

/// An answer to `request`: its id, then these bytes.
Bytes answer_to(Request const& request, std::string const& rest) {
    Bytes made(request.wire().begin(), request.wire().begin() + 2);
    auto const more = bytes_of(rest);
    made.insert(made.end(), more.begin(), more.end());
    return made;
}

/// QR, AA; one question: web1.example.org. A
std::string header(std::size_t answers, std::string const& flags = "8400") {
    return fmt::format("{}0001{:04x}000000000477656231076578616d706c65036f72670000010001", flags,
                       answers);
}
constexpr char const* one_a = "c00c000100010000004d0004c0000201";
constexpr char const* one_aaaa = "c00c001c00010000003c001020010db8000000000000000000000001";
constexpr char const* alias = "c00c000500010000004d0002c011";

Request question() {
    return Request::question("web1.example.org.", RecordType::a, nullptr).value();
}

}  // namespace

TEST_CASE("dns: the file of a TSIG key", "[dns]") {
    auto const parsed = parse_tsig_key(file("Mover", "HMAC-SHA256", secret));
    REQUIRE(parsed);
    CHECK(parsed->name == "mover.");
    CHECK(parsed->algorithm == TsigAlgorithm::hmac_sha256);
    CHECK(parsed->secret == secret);
    for (auto const* comment : {"# one\n", "// one\n", "/* one\n two */", " \t\r\n"}) {
        CHECK(parse_tsig_key(comment + file("mover", "hmac-sha512", secret) + comment));
    }
    CHECK(parse_tsig_key(fmt::format("key k{{secret {};algorithm hmac-sha256;}};", secret)));
}

TEST_CASE("dns: what is no TSIG key is refused, without its contents", "[dns]") {
    auto const whole = file("mover", "hmac-sha256", secret);
    std::pair<std::string, char const*> const rows[] = {
        {"", "not one TSIG key"},
        {"mover:" + std::string(secret), "not one TSIG key"},
        {whole + whole, "not one TSIG key"},
        {whole.substr(0, whole.size() - 2), "not one TSIG key"},
        {whole.substr(0, whole.find("secret \"") + 12), "not one TSIG key"},
        {"/* never ends " + whole, "not one TSIG key"},
        {"key \"mover\" { algorithm hmac-sha256; };", "not one TSIG key"},
        {fmt::format("key m {{ secret \"{0}\"; secret \"{0}\"; }};", secret), "not one TSIG key"},
        {file("no name", "hmac-sha256", secret), "not a name in the DNS"},
        {file("mover", "hmac-md5", secret), "only hmac-sha256 and hmac-sha512"},
        {file("mover", "hmac-sha256-128", secret), "only hmac-sha256 and hmac-sha512"},
        {file("mover", "hmac-sha256", "not base64!"), "not base64"},
        {file("mover", "hmac-sha256", "c2hvcnQ="), "has 5 bytes"},
    };
    for (auto const& [text, why] : rows) {
        INFO(text);
        auto const parsed = parse_tsig_key(text);
        REQUIRE_FALSE(parsed);
        CHECK(parsed.error().code == core::Errc::refused);
        CHECK(parsed.error().what.find(why) != std::string::npos);
        CHECK(parsed.error().what.find(secret) == std::string::npos);
    }
}

TEST_CASE("dns: a TSIG key's file must be readable by its owner only", "[dns]") {
    auto const path = fmt::format("/tmp/sidecar-tsig-{}", ::getpid());
    struct Remove {
        std::string path;
        ~Remove() { ::unlink(path.c_str()); }
    } const remove{path};
    CHECK(read_tsig_key(path).error().what.find("No such file") != std::string::npos);
    lab::write_file(path, file("mover", "hmac-sha256", secret));
    REQUIRE(::chmod(path.c_str(), 0640) == 0);
    CHECK(read_tsig_key(path).error().what.find("can be read by others") != std::string::npos);
    REQUIRE(::chmod(path.c_str(), 0600) == 0);
    CHECK(read_tsig_key(path)->name == "mover.");
    lab::write_file(path, std::string(key_file_bytes_max + 1, ' '));
    CHECK(read_tsig_key(path).error().code == core::Errc::refused);
    CHECK(read_tsig_key("/dev/null").error().what.find("regular") != std::string::npos);
}

TEST_CASE("dns: names", "[dns]") {
    CHECK(absolute_name("Web1.Example.org") == "web1.example.org.");
    CHECK(absolute_name("web1.example.org.") == "web1.example.org.");
    CHECK(absolute_name(std::string(63, 'a') + ".org"));
    for (auto const& bad :
         std::vector<std::string>{"", ".", "..", "a..b", ".a", "a b", "a\\046b", "a'b", "a\nb",
                                  "*.example.org", std::string(64, 'a') + ".org", [] {
                                      std::string long_one;
                                      for (int i = 0; i < 50; ++i) long_one += "label.";
                                      return long_one;
                                  }()}) {
        INFO(bad);
        CHECK_FALSE(absolute_name(bad));
    }
    CHECK(is_in_zone("web1.example.org.", "example.org."));
    CHECK(is_in_zone("example.org.", "example.org."));
    CHECK(is_in_zone("example.org.", "."));
    CHECK_FALSE(is_in_zone("web1.notexample.org.", "example.org."));
    CHECK_FALSE(is_in_zone("org.", "example.org."));
}

TEST_CASE("dns: an update is the message that nsupdate sends", "[dns]") {
    Change const change{"example.org.", "web1.example.org.", records({"192.0.2.1"}),
                        records({"198.51.100.7", "2001:db8:7::7"})};
    auto const request = Request::update(change, key);
    REQUIRE(request);
    auto const hex = hex_of(request->wire());
    // Without the id, and up to the TSIG record.
    CHECK(hex.substr(4, hex.find("056d6f766572") - 4) ==
          "28000001000200040001076578616d706c65036f726700000600010477656231c00c00010001000000000004"
          "c0000201c01d001c00fe000000000000c01d000100ff000000000000c01d001c00ff000000000000c01d0001"
          "00010000004d0004c6336407c01d001c00010000004d001020010db8000700000000000000000007");
    // TSIG: class ANY, TTL 0, hmac-sha256, a fudge of 300 s, a MAC of 32 bytes.
    CHECK(hex.find("056d6f7665720000fa00ff00000000003d0b686d61632d73686132353600") !=
          std::string::npos);
    CHECK(hex.find("012c0020") != std::string::npos);
}

TEST_CASE("dns: a trial has the same conditions, and deletes what is not there", "[dns]") {
    Change const change{"example.org.", "web1.example.org.", records({"192.0.2.0"}), {}};
    auto const hex = hex_of(Request::trial(change, key)->wire());
    CHECK(hex.substr(4, hex.find("056d6f766572") - 4) ==
          "28000001000200020001076578616d706c65036f726700000600010477656231c00c00010001000000000004"
          "c0000200c01d001c00fe000000000000c01d000100fe000000000004c0000201c01d001c00fe000000000010"
          "20010db8000000000000000000000000");
}

TEST_CASE("dns: answers to a question", "[dns]") {
    auto const request = question();
    auto const read = [&](std::string const& rest) {
        return request.read(answer_to(request, rest), 0);
    };
    auto const plain = read(header(1) + one_a);
    REQUIRE(plain);
    CHECK(plain->records == records({"192.0.2.1"}));
    CHECK(plain->authoritative);
    auto const both = read(header(2) + one_a + one_aaaa);
    REQUIRE(both);
    CHECK(both->records.addresses.size() == 2);
    CHECK(both->records.ttl_ipv6 == 60U);
    CHECK(read(header(1) + alias)->alias);
    CHECK(read(header(0, "8405"))->rcode == Rcode::refused);
    CHECK(name(Rcode::refused) == "REFUSED");
    auto const cut = read(header(1, "8600") + one_a);
    REQUIRE(cut);
    CHECK(cut->truncated);
    CHECK(cut->records == Records());
}

TEST_CASE("dns: what is no answer to the request is not read", "[dns]") {
    auto const request = question();
    auto const good = answer_to(request, header(1) + one_a);
    REQUIRE(request.read(good, 0));
    auto const fails = [&](Bytes const& bytes) {
        auto const answer = request.read(bytes, 0);
        CHECK_FALSE(answer);
        if (!answer) CHECK(answer.error().code == core::Errc::protocol);
    };
    auto other_id = good;
    other_id[0] ^= 1;
    fails(other_id);
    auto query = good;
    query[2] &= 0x7f;
    fails(query);
    auto other_opcode = good;
    other_opcode[2] |= 0x28;
    fails(other_opcode);
    auto other_name = good;
    other_name[13] = 'x';
    fails(other_name);
    auto other_type = good;
    other_type[31] = 28;
    fails(other_type);
    for (std::size_t size = 0; size < good.size(); ++size) {
        INFO(size);
        fails({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)});
    }
    Bytes long_one = good;
    long_one.resize(answer_bytes_max + 1);
    fails(long_one);
    std::string many;
    for (std::size_t i = 0; i <= addresses_max; ++i) {
        many += fmt::format("c00c000100010000004d0004c00002{:02x}", i);
    }
    fails(answer_to(request, header(addresses_max + 1) + many));
}

TEST_CASE("dns: an unsigned answer to a signed request tells only of the key", "[dns]") {
    auto const request = Request::question("web1.example.org.", RecordType::a, &key).value();
    auto const now = std::time(nullptr);
    CHECK_FALSE(request.read(answer_to(request, header(1) + one_a), now));
    // A TSIG record with an error and no MAC; the sixth last byte is the error.
    auto const tsig = [&](std::string const& flags, int error, std::string const& mac = "") {
        return answer_to(
            request, fmt::format("{}0001000000000001"
                                 "0477656231076578616d706c65036f72670000010001"
                                 "056d6f7665720000fa00ff00000000{:04x}0b686d61632d73686132353600"
                                 "00006b0cd712012c{:04x}{}0000{:04x}0000",
                                 flags, 29 + mac.size() / 2, mac.size() / 2, mac, error));
    };
    auto const bad_key = request.read(tsig("8409", 17), now);
    REQUIRE(bad_key);
    CHECK(bad_key->tsig_error == TsigError::bad_key);
    CHECK(request.read(tsig("8409", 16), now)->tsig_error == TsigError::bad_signature);
    CHECK_FALSE(request.read(tsig("8400", 17), now));  // NOERROR
    CHECK_FALSE(request.read(tsig("8409", 18), now));  // BADTIME is signed
    CHECK_FALSE(request.read(tsig("8409", 0), now));
    CHECK_FALSE(request.read(tsig("8400", 0, std::string(64, 'a')), now));
    CHECK_FALSE(request.read(tsig("8400", 0, std::string(20, 'a')), now));
}

TEST_CASE("dns: the resolvers of a host", "[dns]") {
    using Names = std::vector<std::string>;
    CHECK(resolvers_in("") == Names{"127.0.0.1"});
    CHECK(
        resolvers_in("search a\nnameserver\t2001:db8::53 \n#nameserver x\nnameserver 192.0.2.53") ==
        Names{"2001:db8::53", "192.0.2.53"});
    CHECK(resolvers_in("nameserver a\nnameserver b\nnameserver c\nnameserver d\n").size() ==
          resolvers_max);
}

}  // namespace dns_message_cases
