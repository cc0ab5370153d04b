// Fuzzing of the datagrams that an echo of `sidecar probe` accepts from any sender, and of the
// answers that a prober accepts from an echo: netmove/probe_wire.hpp, ProbeSessions, ProbeAccount.
// Run as `fuzz-probe tests/fuzz/corpus/probe`. The input is a sequence of datagrams, each preceded
// by its length (2 bytes). Invariant, besides memory safety: no answer is longer than its question
// or is answered itself, and no count exceeds the number of datagrams.
#include <cstdlib>

#include "netmove/probe/echo.hpp"

namespace {

using namespace netmove;

void require(bool holds) {
    if (!holds) std::abort();
}

void check_line(std::string_view text) {
    auto const number = parse_probe_line(text);
    if (number) require(parse_probe_line(probe_line(*number)) == number);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    auto rest = std::as_bytes(std::span(data, size));
    check_line({reinterpret_cast<char const*>(data), size});
    ProbeSessions echo;
    ProbeAccount account;
    std::uint64_t now = 1;
    while (rest.size() >= 2) {
        auto const wanted =
            static_cast<std::size_t>(rest[0]) << 8 | static_cast<std::size_t>(rest[1]);
        auto const datagram = rest.subspan(2, std::min(wanted, rest.size() - 2));
        rest = rest.subspan(2 + datagram.size());
        auto const parsed = parse_probe(datagram);
        if (!parsed) continue;
        now += parsed->sent_ns % 20'000'000'000;
        if (!account.full()) (void)account.sent(now);
        account.answered(*parsed, now);  // an echo that lies
        auto const answer = echo.answer(*parsed, now);
        if (!answer) continue;
        require(parsed->kind == ProbeDatagram::Kind::probe ||
                parsed->kind == ProbeDatagram::Kind::ask);
        std::vector<std::byte> room(datagram.size());
        write_probe(*answer, room);
        require(parse_probe(room) == answer);
        require(!echo.answer(*answer, now));
        account.answered(*answer, now);
    }
    require(echo.size() <= ProbeSessions::sessions_max);
    require(account.answers() <= account.samples().size());
    require(account.there().lost <= account.samples().size());
    std::uint64_t lost = 0;
    for (auto const& loss : account.losses()) {
        require(loss.there + loss.back == loss.count);
        lost += loss.count;
    }
    require(lost + account.answers() == account.samples().size());
    return 0;
}
