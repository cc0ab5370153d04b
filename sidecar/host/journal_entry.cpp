#include "sidecar/host/journal_entry.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/json.hpp"

namespace sidecar {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

using Source = SourceEntry::Record;
using Outcome = SourceEntry::Outcome;
using Destination = DestinationEntry::Record;

template <class Enum>
using Word = std::pair<Enum, std::string_view>;

constexpr std::array<Word<Source>, 4> source_words{{{Source::begun, "begun"},
                                                    {Source::committed, "committed"},
                                                    {Source::rolled_back, "rolled_back"},
                                                    {Source::ended, "ended"}}};
constexpr std::array<Word<Outcome>, 6> outcome_words{{{Outcome::none, ""},
                                                      {Outcome::moved, "moved"},
                                                      {Outcome::failed, "failed"},
                                                      {Outcome::refused, "refused"},
                                                      {Outcome::cancelled, "cancelled"},
                                                      {Outcome::in_doubt, "in_doubt"}}};

template <class Enum, std::size_t count>
std::string_view word_of(std::array<Word<Enum>, count> const& words, Enum value) {
    return std::ranges::find(words, value, &Word<Enum>::first)->second;
}

template <class Enum, std::size_t count>
std::optional<Enum> value_of(std::array<Word<Enum>, count> const& words, std::string_view text) {
    auto const found = std::ranges::find(words, text, &Word<Enum>::second);
    if (found == words.end()) return {};
    return found->first;
}

/// The strings as they are in the file.
struct Words {
    std::string_view role;
    std::string_view record;
    std::string_view outcome;
    std::string peer = {};
};

Words words_of(DestinationEntry const& entry) {
    switch (entry.record) {
        case Destination::owner:
            return {"destination", "owner", ""};
        case Destination::aborted:
            return {"destination", "aborted", ""};
        case Destination::ended_owner:
            return {"destination", "ended", "owner"};
        case Destination::ended_aborted:
            return {"destination", "ended", "aborted"};
    }
    std::unreachable();
}

Words words_of(SourceEntry const& entry) {
    return {"source", word_of(source_words, entry.record), word_of(outcome_words, entry.outcome),
            entry.peer};
}

Words words_of(FailedOverEntry const&) { return {"replica", "ended", "failed_over"}; }
Words words_of(std::monostate) { return {}; }

Words words_of(JournalEntry const& entry) {
    return std::visit([](auto const& what) { return words_of(what); }, entry.what);
}

/// Returns false if this version does not know the strings.
bool parse(Words const& words, JournalEntry& entry) {
    if (words.role == "source") {
        auto const record = value_of(source_words, words.record);
        auto const outcome = value_of(outcome_words, words.outcome);
        if (!record || !outcome) return false;
        entry.what = SourceEntry{*record, *outcome, words.peer};
        return true;
    }
    for (auto const record : {Destination::owner, Destination::aborted, Destination::ended_owner,
                              Destination::ended_aborted}) {
        auto const known = words_of(DestinationEntry{record});
        if (words.role != known.role || words.record != known.record) continue;
        if (words.outcome != known.outcome) continue;
        entry.what = DestinationEntry{record};
        return true;
    }
    auto const is = [&](Words const& known) {
        return words.role == known.role && words.record == known.record &&
               words.outcome == known.outcome;
    };
    if (is(words_of(FailedOverEntry{}))) {
        entry.what = FailedOverEntry{};
        return true;
    }
    return is({});
}

std::uint32_t checksum(std::string_view text) {
    return static_cast<std::uint32_t>(
        crc32_z(0, reinterpret_cast<Bytef const*>(text.data()), text.size()));
}

constexpr std::size_t head_bytes = 9;  // the checksum and a space

}  // namespace

bool JournalEntry::moved_away() const {
    return source() != nullptr && source()->outcome == Outcome::moved;
}

bool JournalEntry::source_unfinished() const {
    return source() != nullptr && source()->record != Source::ended;
}

bool JournalEntry::must_be_ended_first() const {
    if (auto const* here = source()) {
        return here->record == Source::committed || here->record == Source::rolled_back;
    }
    if (auto const* here = destination()) {
        return here->record == Destination::owner || here->record == Destination::aborted;
    }
    return false;
}

std::string_view JournalEntry::record_name() const { return words_of(*this).record; }

Result<std::string> encode(JournalSlot const& slot) {
    auto const& entry = slot.entry;
    auto const words = words_of(entry);
    Json moves = Json::array();
    for (auto const at : entry.moves) moves.add(at);
    auto const body = Json::object({{"sequence", static_cast<std::int64_t>(slot.sequence)},
                                    {"migration_id", entry.migration_id},
                                    {"role", std::string(words.role)},
                                    {"record", std::string(words.record)},
                                    {"outcome", std::string(words.outcome)},
                                    {"peer", words.peer},
                                    {"moves", moves}})
                          .dump();
    std::string text = fmt::format("{:08x} {}\n", checksum(body), body);
    if (text.size() > journal_slot_bytes) {
        return fail(Errc::invalid, "a record of {} bytes does not fit in the journal", text.size());
    }
    text.resize(journal_slot_bytes, '\0');
    return text;
}

DecodedSlot decode(std::string_view bytes) {
    if (bytes.find_first_not_of('\0') == std::string_view::npos) return {SlotState::empty};
    auto const end = bytes.find('\n');
    bool const whole = bytes.size() == journal_slot_bytes && end != std::string_view::npos &&
                       end > head_bytes && bytes[head_bytes - 1] == ' ' &&
                       bytes.find_first_not_of('\0', end + 1) == std::string_view::npos;
    if (!whole) return {SlotState::damaged};
    auto const body = bytes.substr(head_bytes, end - head_bytes);
    if (fmt::format("{:08x}", checksum(body)) != bytes.substr(0, head_bytes - 1)) {
        return {SlotState::damaged};
    }
    auto const parsed = Json::parse(body);
    if (!parsed) return {SlotState::unknown};
    JournalSlot slot;
    auto const sequence = (*parsed)["sequence"].integer_or(0);
    if (sequence <= 0) return {SlotState::unknown};
    slot.sequence = static_cast<std::uint64_t>(sequence);
    slot.entry.migration_id = (*parsed)["migration_id"].text_or("");
    auto const role = (*parsed)["role"].text_or("");
    auto const record = (*parsed)["record"].text_or("");
    auto const outcome = (*parsed)["outcome"].text_or("");
    if (!parse({role, record, outcome, (*parsed)["peer"].text_or("")}, slot.entry)) {
        return {SlotState::unknown};
    }
    for (auto const& at : (*parsed)["moves"].elements()) {
        slot.entry.moves.push_back(at.integer_or(0));
    }
    return {SlotState::intact, std::move(slot)};
}

Result<JournalSlot> newest(DecodedSlot const& first, DecodedSlot const& second,
                           std::string const& path) {
    if (first.state == SlotState::unknown || second.state == SlotState::unknown) {
        return fail(Errc::refused,
                    "the journal {} holds a record that this version of sidecar does not know: "
                    "use the version that wrote it",
                    path);
    }
    if (first.slot && second.slot) {
        return first.slot->sequence > second.slot->sequence ? *first.slot : *second.slot;
    }
    if (first.slot) return *first.slot;
    if (second.slot) return *second.slot;
    // The first record goes into the second slot: if that write is torn, nothing was recorded.
    if (first.state == SlotState::empty) return JournalSlot{};
    return fail(Errc::refused,
                "the journal {} is damaged: it does not say whether the guest may run on this "
                "host. Check the other host of its last migration; when you know where the guest "
                "belongs, remove the file",
                path);
}

}  // namespace sidecar
