#include "sidecar/migration/destination_files.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "core/log.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/destination_remains.hpp"
#include "storage/file_hash.hpp"
#include "storage/image.hpp"
#include "storage/owned_file.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::fail_errno;
using core::Result;
using core::Task;

void DestinationFiles::name() {
    incoming_.clear();
    auto const& files = context_.description.files;
    for (std::size_t index = 0; index < files.size(); ++index) {
        if (!files[index].copied) continue;
        auto& one = incoming_.emplace_back();
        one.index = index;
        one.image.file.path = map_path(context_.options.maps, files[index].path);
    }
}

std::string DestinationFiles::unfinished(Incoming const& one) const {
    return storage::unfinished_path(one.image.path(), context_.migration_id);
}

Task<Result<>> DestinationFiles::create() {
    for (auto& one : incoming_) {
        auto const& file = context_.description.files[one.index];
        storage::CreateOptions settings;
        settings.access = file.access;
        CO_TRY(one.image.file.identity,
               co_await storage::create_image(context_.loop, unfinished(one), "raw", file.bytes,
                                              std::move(settings),
                                              Deadline::after(limits::prepare_timeout)));
        one.file = core::Fd(open(unfinished(one).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
        if (!one.file) co_return fail_errno(errno, "cannot write {}", unfinished(one));
    }
    heard_ = core::Clock::now();
    created_.set();
    co_return Result<>{};
}

bool DestinationFiles::complete() const {
    return std::ranges::none_of(incoming_, &std::string::empty, &Incoming::sha256);
}

Task<Result<>> DestinationFiles::receive(std::stop_token stop) {
    while (!complete()) {
        auto const patience = heard_ + limits::file_patience;
        if (busy_ == 0 && core::Clock::now() >= patience) {
            co_return fail(Errc::timed_out, "the source sent no file for {} s",
                           limits::file_patience.count());
        }
        changed_.reset();
        (void)co_await changed_.wait(
            Deadline::after(limits::file_hash_answer, stop));  // or look again
        if (stop.stop_requested()) co_return fail(Errc::cancelled, "this sidecar ends");
        if (given_up_) co_return fail(Errc::closed, "{}", protocol::given_up_earlier);
    }
    co_return Result<>{};
}

Task<Result<protocol::SendFileAnswer>> DestinationFiles::take(protocol::SendFile piece) {
    CO_TRY_VOID(co_await created_.wait(Deadline::after(limits::prepare_timeout)));
    auto const one = std::ranges::find(incoming_, piece.file, &Incoming::index);
    bool const is_end = piece.bytes.empty();
    if (one == incoming_.end() || one->ended || given_up_ || (is_end && one->writes > 0))
        co_return fail(Errc::refused, "no such piece of a file is expected now");
    ++busy_;
    Result<> taken;
    if (is_end) {
        one->ended = true;
        taken = co_await finish(*one, std::move(piece.sha256));
    } else {
        ++one->writes;
        taken = co_await write(*one, piece);
        --one->writes;
    }
    --busy_;
    heard_ = core::Clock::now();
    if (!taken) co_return std::unexpected(taken.error());
    co_return protocol::SendFileAnswer{};
}

Task<Result<>> DestinationFiles::write(Incoming& one, protocol::SendFile const& piece) {
    auto const bytes = context_.description.files[one.index].bytes;
    if (piece.offset > bytes || piece.bytes.size() > bytes - piece.offset)
        co_return fail(Errc::refused, "{} has only {} bytes", one.image.path(), bytes);
    auto rest = std::as_bytes(std::span(piece.bytes));
    auto offset = piece.offset;
    while (!rest.empty()) {
        auto const deadline = Deadline::after(limits::file_patience);
        auto const written =
            co_await context_.loop.write_at(one.file.get(), rest, offset, deadline);
        if (!written) {
            auto error = written.error();
            co_return std::unexpected(std::move(error).while_doing("writing " + one.image.path()));
        }
        offset += static_cast<std::uint64_t>(*written);
        rest = rest.subspan(static_cast<std::size_t>(*written));
    }
    co_return Result<>{};
}

/// What is compared is what the file system returns.
Task<Result<>> DestinationFiles::finish(Incoming& one, std::string sha256) {
    CO_TRY_VOID(
        co_await context_.loop.fdatasync(one.file.get(), Deadline::after(limits::files_timeout)));
    std::uint64_t done = 0;
    CO_TRY(auto const here, co_await storage::hash_file(context_.loop, unfinished(one), done,
                                                        Deadline::after(limits::files_timeout)));
    if (here.sha256 != sha256) {
        co_return fail(Errc::refused, "{} arrived with another content than it has on the source",
                       one.image.path());
    }
    core::log::info("guest={} migration_id={} copied {}, {} bytes, SHA-256 {}", context_.name,
                    context_.migration_id, one.image.path(), here.identity.bytes, sha256);
    one.sha256 = std::move(sha256);
    one.file.reset();
    changed_.set();
    co_return Result<>{};
}

Task<Result<>> DestinationFiles::publish() {
    for (auto& one : incoming_) CO_TRY_VOID(co_await publish_one(one));
    co_return Result<>{};
}

Task<Result<>> DestinationFiles::publish_one(Incoming& one) {
    auto const published = storage::publish(one.image.path(), context_.migration_id);
    if (published || published.error().os != EEXIST) co_return published;
    std::uint64_t done = 0;
    auto const there = co_await storage::hash_file(context_.loop, one.image.path(), done,
                                                   Deadline::after(limits::files_timeout));
    if (!there || there->sha256 != one.sha256) {
        co_return fail(Errc::refused,
                       "{} appeared on the destination since the check, with another content: "
                       "migrate again",
                       one.image.path());
    }
    // Without its identity, what is there is not ours.
    CO_TRY_VOID(storage::remove_owned({one.image.path()}, context_.migration_id));
    one.image.file.identity.reset();
    core::log::info("guest={} migration_id={} {} has come here meanwhile, and is used",
                    context_.name, context_.migration_id, one.image.path());
    co_return Result<>{};
}

void DestinationFiles::give_up() {
    given_up_ = true;
    created_.set();
    changed_.set();
}

Result<> DestinationFiles::remove() {
    std::vector<storage::DestinationImage> images;
    for (auto& one : incoming_) {
        auto& image = images.emplace_back(one.image);
        // Without its identity it stays.
        if (storage::in_use(image.path()).value_or(false)) image.file.identity.reset();
    }
    return remove_created(images, context_.name, context_.migration_id);
}

void DestinationFiles::add_to(IncomingRecord& record) const {
    for (auto const& one : incoming_) record.images.push_back(one.image);
}

}  // namespace sidecar
