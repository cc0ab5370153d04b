// Fuzzing of netmove/conntrack_entry.hpp with libFuzzer: the connections of a guest as a peer sends
// them. Invariant, besides memory safety: an accepted entry is the guest's, fits into a message,
// and is written as it was read.
#include <cstdlib>

#include "netmove/conntrack_entry.hpp"

namespace {

void must(bool holds) {
    if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
    using namespace netmove;
    static std::vector<Address> const guest{Address::parse("192.0.2.10").value(),
                                            Address::parse("2001:db8::10").value()};
    auto const json = core::Json::parse({reinterpret_cast<char const*>(data), size});
    if (!json) return 0;
    if (auto const key = ConntrackKey::from_json(*json)) {
        must(conntrack_carries(key->protocol));
        must(ConntrackKey::from_json(key->to_json()).value() == *key);
    }
    auto const entry = ConntrackEntry::from_json(*json, guest);
    if (!entry) {
        must(!entry.error().what.empty());
        return 0;
    }
    must(entry->is_of(guest));
    must((entry->status & ~conntrack_status_mask) == 0);
    must(entry->labels.empty() || entry->labels.size() == 16);
    must(entry->helper.find('/') == std::string::npos && entry->helper.size() < 16);
    auto const written = entry->to_json();
    must(written.dump().size() <= conntrack_entry_bytes_max);
    must(ConntrackEntry::from_json(written, guest).value() == *entry);
    return 0;
}
