// What the typed commands share; used by machine.cpp, block.cpp and migration.cpp only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "qmp/client.hpp"

namespace qmp {

/// A command whose reply says nothing but "done".
inline Task<Result<>> run(Client& client, std::string command, Json arguments, Deadline deadline) {
    CO_TRY_VOID(co_await client.execute(std::move(command), std::move(arguments), deadline));
    co_return Result<>{};
}

/// A number of bytes, of milliseconds, ...; 0 when QEMU did not tell, or something else than a
/// count.
inline std::uint64_t count_of(Json const& value) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, value.integer_or(0)));
}

}  // namespace qmp
