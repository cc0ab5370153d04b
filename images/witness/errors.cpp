// Counts and names of what the witness found wrong.
#include "errors.hpp"

#include <utility>

namespace witness {

const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::setup:
            return "setup";
        case Kind::ram_changed:
            return "ram_changed";
        case Kind::ram_stale:
            return "ram_stale";
        case Kind::disk_lost:
            return "disk_lost";
        case Kind::disk_stale:
            return "disk_stale";
        case Kind::disk_torn:
            return "disk_torn";
        case Kind::disk_corrupt:
            return "disk_corrupt";
        case Kind::disk_misplaced:
            return "disk_misplaced";
        case Kind::disk_future:
            return "disk_future";
        case Kind::disk_io:
            return "disk_io";
        case Kind::count_:
            break;
    }
    return "?";
}

void Errors::add(Kind kind, std::string what) {
    const std::scoped_lock lock(mutex_);
    last_ = std::string(name_of(kind)) + ": " + std::move(what);
    if (total_ == 0) first_ = last_;
    ++counts_[static_cast<std::size_t>(kind)];
    ++total_;
}

std::string Errors::first() const {
    const std::scoped_lock lock(mutex_);
    return first_;
}

std::string Errors::last() const {
    const std::scoped_lock lock(mutex_);
    return last_;
}

Errors& errors() {
    static Errors the_errors;
    return the_errors;
}

} // namespace witness
