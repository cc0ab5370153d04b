// Fuzzing of the answers that a DNS server, or anyone on the way to it, sends, and of a TSIG key's
// file: netmove/dns/message.hpp, tsig_key.hpp. Run as `fuzz-dns tests/fuzz/corpus/dns`. The input
// is an answer; its id becomes that of the request. Invariant, besides memory safety: without the
// right signature nothing of a signed request's answer is used, and what is read is within limits.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "netmove/dns/message.hpp"

namespace {

using namespace netmove::dns;

void require(bool holds) {
    if (!holds) std::abort();
}

/// The key's secret is in no input.
TsigKey const key{"mover.", TsigAlgorithm::hmac_sha256,
                  "bXNzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M="};
constexpr std::time_t now = 1'800'000'000;

/// What `request` makes of the input, with its own id.
core::Result<Answer> read(Request const& request, std::vector<std::uint8_t> input) {
    for (std::size_t i = 0; i < 2 && i < input.size(); ++i) input[i] = request.wire()[i];
    return request.read(input, now);
}

void check_question(std::vector<std::uint8_t> const& input, RecordType type) {
    auto const request = Request::question("web1.example.org.", type, nullptr);
    require(request.has_value());
    auto const answer = read(*request, input);
    if (!answer) return;
    auto const& found = answer->records;
    require(found.addresses.size() <= addresses_max);
    require(std::ranges::is_sorted(found.addresses));
    require(found.ttl_ipv4.has_value() == found.has(netmove::Address::Family::ipv4));
    require(found.ttl_ipv6.has_value() == found.has(netmove::Address::Family::ipv6));
    require(answer->tsig_error == TsigError::none);
}

void check_signed(std::vector<std::uint8_t> const& input) {
    auto const request = Request::question("web1.example.org.", RecordType::a, &key);
    require(request.has_value());
    auto const answer = read(*request, input);
    if (!answer) return;
    require(answer->rcode == Rcode::notauth);
    require(answer->tsig_error == TsigError::bad_key ||
            answer->tsig_error == TsigError::bad_signature);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    std::vector<std::uint8_t> const input(data, data + size);
    check_question(input, RecordType::a);
    check_question(input, RecordType::soa);
    check_signed(input);
    auto const parsed = parse_tsig_key({reinterpret_cast<char const*>(data), size});
    if (parsed) {
        require(absolute_name(parsed->name) == parsed->name);
        require(Request::question("web1.example.org.", RecordType::a, &*parsed).has_value());
    }
    return 0;
}
