#include "netmove/mobile_ipv6/binding_log.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <span>
#include <utility>

#include "core/fsync.hpp"
#include "core/log.hpp"

namespace netmove::mobile_ipv6 {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

// A disk that does not answer within this is broken.
constexpr std::chrono::seconds binding_log_limit{60};

Result<std::string> read_whole(std::string const& path) {
    std::string text;
    core::Fd const file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file && errno == ENOENT) return text;
    if (!file) return core::fail_errno(errno, "cannot read {}", path);
    std::vector<char> part(1U << 16U);
    for (;;) {
        auto const got = ::read(file.get(), part.data(), part.size());
        if (got < 0) return core::fail_errno(errno, "cannot read {}", path);
        if (got == 0) return text;
        text.append(part.data(), static_cast<std::size_t>(got));
        if (text.size() > binding_log_bytes_max) return fail(Errc::invalid, "{} is too long", path);
    }
}

}  // namespace

Result<std::vector<Json>> BindingLog::read(std::string const& path) {
    TRY(auto const text, read_whole(path));
    std::vector<Json> records;
    std::size_t at = 0;
    for (auto end = text.find('\n'); end != std::string::npos; end = text.find('\n', at)) {
        auto record = Json::parse(std::string_view(text).substr(at, end - at));
        if (!record) {
            return std::unexpected(
                std::move(record.error())
                    .while_doing(fmt::format("reading line {} of {}", records.size() + 1, path)));
        }
        records.push_back(std::move(*record));
        at = end + 1;
    }
    return records;
}

void BindingLog::append(Json const& record, WhenDurable when_durable) {
    if (!record.is_null()) lines_ += record.dump() + "\n";
    waiting_.push_back(std::move(when_durable));
    changed_.set();
}

Task<void> BindingLog::run(std::stop_token stop) {
    (void)co_await write_once();  // the file as it is to be, without what has expired
    while (!stop.stop_requested()) {
        if (!co_await changed_.wait(Deadline::never(stop))) break;
        if (co_await write_once()) continue;
        (void)co_await core::sleep_for(loop_, binding_log_retry, stop);
    }
    if (changed_.is_set()) (void)co_await write_once();
}

/// False: it could not be written.
Task<bool> BindingLog::write_once() {
    changed_.reset();
    auto const waiting = std::exchange(waiting_, {});
    auto lines = std::exchange(lines_, {});
    bool const anew = !file_ || changes_ >= changes_max_;
    auto const written =
        anew ? co_await write_anew() : co_await write_pending(std::move(lines), waiting.size());
    if (!written) {
        core::log::error("home-agent: bindings are not durable: {}", written.error().sentence());
        file_.reset();
        changed_.set();
    }
    for (auto const& call : waiting) {
        if (call) call();
    }
    co_return written.has_value();
}

Task<Result<>> BindingLog::write_pending(std::string lines, std::size_t count) {
    CO_TRY_VOID(co_await write_text(file_.get(), lines));
    CO_TRY_VOID(co_await loop_.fdatasync(file_.get(), Deadline::after(binding_log_limit)));
    changes_ += count;
    co_return Result<>{};
}

Task<Result<>> BindingLog::write_anew() {
    std::string text;
    std::size_t lines = 0;
    for (auto const& record : snapshot_()["bindings"].elements()) {
        text += record.dump() + "\n";
        ++lines;
    }
    auto const limit = Deadline::after(binding_log_limit);
    auto const temporary = path_ + ".new";
    core::Fd file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
    if (!file) co_return core::fail_errno(errno, "cannot write {}", temporary);
    CO_TRY_VOID(co_await write_text(file.get(), text));
    CO_TRY_VOID(co_await core::fsync(loop_, file.get(), limit));
    if (std::rename(temporary.c_str(), path_.c_str()) < 0) {
        co_return core::fail_errno(errno, "cannot write {}", path_);
    }
    auto const parent = std::filesystem::path(path_).parent_path().string();
    core::Fd const directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) co_return core::fail_errno(errno, "cannot sync {}", parent);
    CO_TRY_VOID(co_await core::fsync(loop_, directory.get(), limit));
    file_ = std::move(file);
    changes_ = 0;
    changes_max_ = std::max(binding_log_changes_min, 2 * lines);
    co_return Result<>{};
}

Task<Result<>> BindingLog::write_text(int file, std::string const& text) {
    auto const bytes = std::as_bytes(std::span(text));
    auto const limit = Deadline::after(binding_log_limit);
    for (std::size_t at = 0; at < bytes.size();) {
        CO_TRY(int const got, co_await loop_.write(file, bytes.subspan(at), limit));
        if (got == 0) co_return fail(Errc::io, "cannot write {}", path_);
        at += static_cast<std::size_t>(got);
    }
    co_return Result<>{};
}

}  // namespace netmove::mobile_ipv6
