// when_all(): several tasks side by side, joined; the first error is the answer. Used where disks
// do not wait for each other.
#pragma once

#include <optional>
#include <vector>

#include "core/sync.hpp"

namespace storage {

namespace detail {
inline core::Task<void> keep_first_error(core::Task<core::Result<>> task,
                                         std::optional<core::Error>& first) {
    auto result = co_await std::move(task);
    if (!result && !first) first = std::move(result.error());
}
}  // namespace detail

/// Runs all tasks at once and waits for all of them, also when one has failed.
inline core::Task<core::Result<>> when_all(core::Loop& loop,
                                           std::vector<core::Task<core::Result<>>> tasks) {
    std::optional<core::Error> first;
    core::TaskGroup scope(loop);
    for (auto& task : tasks) scope.spawn(detail::keep_first_error(std::move(task), first));
    co_await scope.join();
    if (first) co_return std::unexpected(std::move(*first));
    co_return core::Result<>{};
}

/// `task`, which cannot fail.
inline core::Task<core::Result<>> surely(core::Task<void> task) {
    co_await std::move(task);
    co_return core::Result<>{};
}

/// `task`; when it fails, those that run beside it with `others` as their stop need not go on.
inline core::Task<core::Result<>> stop_when_failed(core::Task<core::Result<>> task,
                                                   core::LinkedStop& others) {
    auto result = co_await std::move(task);
    if (!result) others.request_stop();
    co_return result;
}

}  // namespace storage
