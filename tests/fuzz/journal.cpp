// Fuzzing of the contents of a journal's file: sidecar/host/journal_entry.hpp. Run as `fuzz-journal
// tests/fuzz/corpus/journal`. The input is both slots, the second from byte 4096 on. Invariant,
// besides memory safety: an intact slot is written as it was read, and the record of two slots is
// never older than the record of one of them.
#include <cstdlib>

#include "sidecar/host/journal_entry.hpp"

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

sidecar::DecodedSlot check(std::string_view bytes) {
    auto decoded = sidecar::decode(bytes);
    require((decoded.state == sidecar::SlotState::intact) == decoded.slot.has_value());
    if (!decoded.slot) return decoded;
    auto const written = sidecar::encode(*decoded.slot);
    if (!written) return decoded;  // our JSON may be longer than the input
    auto const again = sidecar::decode(*written);
    require(again.slot && again.slot->sequence == decoded.slot->sequence);
    require(again.slot->entry == decoded.slot->entry);
    return decoded;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    std::string_view const bytes(reinterpret_cast<char const*>(data), size);
    auto const cut = std::min(size, sidecar::journal_slot_bytes);
    auto const first = check(bytes.substr(0, cut));
    auto const second = check(bytes.substr(cut, sidecar::journal_slot_bytes));
    auto const found = sidecar::newest(first, second, "journal");
    if (!found) return 0;
    for (auto const& one : {first, second}) {
        if (one.slot) require(found->sequence >= one.slot->sequence);
    }
    return 0;
}
