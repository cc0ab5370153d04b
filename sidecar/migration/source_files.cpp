#include "sidecar/migration/source_files.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "core/sha256.hpp"
#include "storage/when_all.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Json;
using core::Result;
using core::Task;

Result<> SourceFiles::find() {
    auto& description = context_.description;
    description.files.clear();
    // The checks of an earlier release look for the files themselves.
    if (!context_.peer.offers(protocol::Feature::guest_files)) return {};
    TRY(description.files, guest_files_of(description, context_.options));
    return {};
}

Result<> SourceFiles::note_missing(std::vector<bool> const& missing) {
    auto& files = context_.description.files;
    if (files.empty()) return {};
    if (missing.size() != files.size()) {
        return fail(Errc::protocol, "the destination answers for {} files of {}", missing.size(),
                    files.size());
    }
    for (std::size_t index = 0; index < files.size(); ++index)
        files[index].copied = files[index].copied && missing[index];
    return {};
}

SourceFiles::Progress SourceFiles::progress() const {
    Progress progress{0, done_bytes_};
    for (auto const& file : context_.description.files) {
        if (file.copied) progress.total_bytes += file.bytes;
    }
    return progress;
}

Json SourceFiles::report() const {
    auto list = Json::array();
    for (auto const& file : context_.description.files) {
        if (!file.copied) continue;
        list.add(Json::object({{"path", file.path}, {"bytes", file.bytes}}));
    }
    return list;
}

Task<Result<protocol::Endpoints>> SourceFiles::send_while_preparing(protocol::Prepare request) {
    done_bytes_ = 0;
    if (report().size() == 0) {
        co_return co_await context_.peer.request(std::move(request),
                                                 context_.within(limits::prepare_timeout));
    }
    core::LinkedStop stop(context_.actions_stop.get_token());
    std::optional<core::Error> failed;
    core::TaskGroup sending(context_.guest.loop);
    sending.spawn(
        storage::detail::keep_first_error(storage::stop_when_failed(send_all(stop), stop), failed));
    auto prepared = co_await context_.peer.request(
        std::move(request), Deadline::after(limits::files_timeout, stop.token()));
    stop.request_stop();
    co_await sending.join();
    // Which of the two ended the other.
    bool const ours = failed && failed->code != Errc::cancelled;
    bool const theirs = !prepared && prepared.error().code != Errc::cancelled;
    if (ours && !theirs) co_return std::unexpected(std::move(*failed));
    co_return prepared;
}

/// Fails if the destination does not answer after the last file.
Task<Result<>> SourceFiles::send_all(core::LinkedStop& stop) {
    auto const deadline = Deadline::after(limits::files_timeout, stop.token());
    for (std::size_t index = 0; index < context_.description.files.size(); ++index) {
        if (!context_.description.files[index].copied) continue;
        CO_TRY_VOID(co_await send(index, deadline));
    }
    if (!co_await core::sleep_for(context_.guest.loop, limits::prepare_timeout, stop.token()))
        co_return Result<>{};  // it has answered
    co_return fail(Errc::timed_out, "the destination has all files, and did not prepare for {} s",
                   limits::prepare_timeout.count());
}

Task<Result<>> SourceFiles::send(std::size_t index, Deadline deadline) {
    auto const& file = context_.description.files[index];
    core::Fd const source(open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!source) co_return fail_errno(errno, "cannot read {}", file.path);
    auto const begun = core::Clock::now();
    core::Sha256 hash;
    bool const far = context_.peer.rtt_ms() >= limits::far_rtt_ms;
    auto const pieces_max = far ? limits::file_pieces_far : limits::file_pieces_near;
    std::uint64_t offset = 0;
    while (offset < file.bytes) {
        std::vector<Task<Result<>>> under_way;
        for (std::size_t count = 0; count < pieces_max && offset < file.bytes; ++count) {
            std::vector<std::uint8_t> bytes(
                std::min<std::uint64_t>(limits::file_piece_bytes, file.bytes - offset));
            CO_TRY(int const got,
                   co_await context_.guest.loop.read_at(
                       source.get(), std::as_writable_bytes(std::span(bytes)), offset, deadline));
            if (got <= 0) co_return fail(Errc::refused, "{} became shorter", file.path);
            bytes.resize(static_cast<std::size_t>(got));
            hash.add(std::as_bytes(std::span(bytes)));
            bool const hole = std::ranges::all_of(bytes, [](auto byte) { return byte == 0; });
            if (!hole)
                under_way.push_back(send_piece({index, offset, "", std::move(bytes)}, deadline));
            offset += static_cast<std::uint64_t>(got);
            done_bytes_ += static_cast<std::uint64_t>(got);
        }
        CO_TRY_VOID(co_await storage::when_all(context_.guest.loop, std::move(under_way)));
        co_await keep_rate(begun, offset, deadline);
    }
    CO_TRY(auto const now, storage::identity_of(file.path));
    if (now != file.identity)
        co_return fail(Errc::refused, "{} ({}) changed while it was copied", file.what, file.path);
    co_return co_await send_piece({index, offset, hash.text()}, deadline);
}

Task<Result<>> SourceFiles::send_piece(protocol::SendFile piece, Deadline deadline) {
    CO_TRY_VOID(co_await context_.peer.request(std::move(piece), std::move(deadline)));
    co_return Result<>{};
}

/// `--bandwidth` counts for these files, too.
Task<void> SourceFiles::keep_rate(core::Clock::time_point begun, std::uint64_t sent_bytes,
                                  Deadline deadline) const {
    auto const limit = context_.options.bandwidth;
    if (limit == 0) co_return;
    std::chrono::duration<double> const planned(static_cast<double>(sent_bytes) /
                                                static_cast<double>(limit));
    auto const ahead =
        begun + std::chrono::duration_cast<core::Clock::duration>(planned) - core::Clock::now();
    if (ahead > core::Clock::duration::zero())
        (void)co_await core::sleep_for(context_.guest.loop, ahead, deadline.token());
}

}  // namespace sidecar
