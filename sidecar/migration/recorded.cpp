#include "sidecar/migration/recorded.hpp"

#include <utility>

namespace sidecar {

machine::source::Record recorded_by_source(JournalEntry const& last) {
    using machine::source::Record;
    auto const* entry = last.source();
    if (entry == nullptr) return Record::none;
    switch (entry->record) {
        case SourceEntry::Record::begun:
            return Record::begun;
        case SourceEntry::Record::committed:
            return Record::committed;
        case SourceEntry::Record::rolled_back:
            return Record::rolled_back;
        case SourceEntry::Record::ended:
            return Record::none;
    }
    std::unreachable();
}

}  // namespace sidecar
