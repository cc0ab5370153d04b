#include "sidecar/migration/destination_disks.hpp"

#include <algorithm>

#include "core/log.hpp"
#include "qmp/block.hpp"
#include "sidecar/guest/bases.hpp"
#include "sidecar/guest/destination_line.hpp"
#include "sidecar/guest/left_devices.hpp"
#include "sidecar/host/keys.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/migration/destination_remains.hpp"
#include "storage/block_device.hpp"
#include "storage/image.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Result;
using core::Task;
using Kind = storage::DestinationImage::Kind;

Result<> DestinationDisks::name_images(std::string left_in) {
    left_in_ = std::move(left_in);
    images_.clear();
    for (auto const& disk : context_.description.disks) {
        TRY(auto image, storage::destination_image(image_path(context_.options.maps, disk)));
        images_.push_back(std::move(image));
    }
    return {};
}

Task<Result<>> DestinationDisks::create_images() {
    zero_bytes_.clear();
    claims_.clear();
    auto const zeroing = Deadline::after(limits::zero_device_timeout, context_.stop.get_token());
    for (std::size_t index = 0; index < context_.description.disks.size(); ++index) {
        auto const& disk = context_.description.disks[index];
        auto& image = images_[index];
        // A new raw file is one hole: zeroes that the source has as data, as every device has its
        // own, need not be written to it.
        std::uint64_t zero_bytes = disk.format == "raw" ? disk.virtual_bytes : 0;
        if (image.kind == Kind::device) {
            CO_TRY(zero_bytes, co_await take_device(disk, image, zeroing));
        } else {
            CO_TRY_VOID(co_await create_file(disk, image));
        }
        zero_bytes_.push_back(zero_bytes);
    }
    co_return Result<>{};
}

Task<Result<>> DestinationDisks::create_file(MovedDisk const& disk,
                                             storage::DestinationImage& image) {
    storage::CreateOptions settings;
    settings.access = disk.access;
    if (disk.format == "qcow2") settings.layout = disk.layout;
    if (!disk.bases.empty()) {
        auto const base = map_path(context_.options.maps, disk.bases[0].path);
        settings.backing_file = backing_name(base, image.path(), disk.base_is_relative);
        settings.backing_format = disk.bases[0].format;
    }
    CO_TRY(
        image.file.identity,
        co_await storage::create_image(
            context_.loop, storage::unfinished_path(image.path(), context_.migration_id),
            disk.format, disk.virtual_bytes, settings, Deadline::after(limits::prepare_timeout)));
    co_return Result<>{};
}

/// From here on its content is this guest's. What cannot be made zero now, the source writes.
Task<Result<std::uint64_t>> DestinationDisks::take_device(MovedDisk const& disk,
                                                          storage::DestinationImage const& image,
                                                          Deadline zeroing) {
    // Of two guests that come at the same moment, one gets it.
    CO_TRY(auto claim, storage::claim_device(image.path()));
    claims_.push_back(std::move(claim));
    CO_TRY_VOID(forget_left_device(context_.paths, image.path(), context_.name));
    if (image.was_read_only) CO_TRY_VOID(storage::set_device_read_only(image.path(), false));
    CO_TRY(auto const zero_bytes,
           co_await storage::zero_device(context_.loop, image.path(), disk.virtual_bytes,
                                         std::move(zeroing)));
    core::log::info(
        "guest={} migration_id={} disk={} overwrites the device {}: {} of {} bytes are "
        "zero without being written",
        context_.name, context_.migration_id, disk.name, image.path(), zero_bytes,
        disk.virtual_bytes);
    co_return zero_bytes;
}

Result<> DestinationDisks::publish_images() const {
    for (auto const& image : images_) {
        if (image.kind == Kind::device) continue;
        TRY_VOID(storage::publish(image.path(), context_.migration_id));
    }
    return {};
}

Task<Result<>> DestinationDisks::open_exports() {
    if (context_.description.disks.empty()) co_return Result<>{};
    CO_TRY_VOID(co_await find_target());
    auto const credentials = context_.key.empty() ? "" : key_object(context_.migration_id);
    CO_TRY(nbd_port_, co_await target_->open("", context_.options.data_ports, credentials,
                                             Deadline::after(limits::prepare_timeout)));
    co_return Result<>{};
}

/// Finds the disks in this QEMU by their device names, which are the same in both.
Task<Result<>> DestinationDisks::find_target() {
    auto& client = *context_.guest->client;
    auto const& disks = context_.description.disks;
    CO_TRY(auto const here,
           co_await qmp::query_block(client, Deadline::after(limits::qmp_timeout)));
    exported_.clear();
    for (std::size_t index = 0; index < disks.size(); ++index) {
        auto const& wanted = disks[index];
        auto const* const same = find_drive(here, wanted);
        if (same == nullptr) {
            co_return fail(Errc::refused, "disk {} is not found in the destination's QEMU",
                           wanted.name);
        }
        if (!wanted.bases.empty()) {
            CO_TRY_VOID(co_await check_opened_over(client, same->node_name, context_.options.maps,
                                                   wanted, Deadline::after(limits::qmp_timeout)));
        }
        exported_.push_back(
            {same->node_name, fmt::format("sidecar-{}-{}", context_.migration_id, index)});
    }
    target_ = std::make_unique<storage::Target>(context_.loop, client, exported_);
    co_return Result<>{};
}

Task<Result<>> DestinationDisks::reopen_exports() {
    if (!target_) {  // an earlier sidecar had opened them; close_found_exports() closed them
        CO_TRY_VOID(co_await find_target());
        target_->adopt();
    }
    CO_TRY_VOID(co_await target_->reexport(Deadline::after(limits::qmp_timeout)));
    co_await hasher_.close();  // its connections were cut as well
    co_return Result<>{};
}

Task<Result<>> DestinationDisks::close_found_exports() {
    auto& client = *context_.guest->client;
    auto const deadline = Deadline::after(limits::qmp_timeout);
    CO_TRY(auto const exports, co_await qmp::query_block_exports(client, deadline));
    for (auto const& one : exports) {
        CO_TRY_VOID(
            co_await qmp::block_export_del(client, one.id, qmp::ExportRemoval::hard, deadline));
    }
    co_return Result<>{};
}

Task<Result<>> DestinationDisks::seal(core::Clock::duration limit) {
    if (!target_) co_return Result<>{};
    CO_TRY_VOID(co_await target_->seal(Deadline::after(limit)));
    co_await hasher_.close();
    co_return Result<>{};
}

Task<Result<protocol::HashAnswer>> DestinationDisks::hash(protocol::Hash request,
                                                          std::function<Result<>()> may_read) {
    auto const exported = [this, may_read = std::move(may_read)]() -> Result<> {
        TRY_VOID(may_read());
        if (target_) return {};
        return fail(Errc::refused, "the disks cannot be read now: they are not exported");
    };
    co_return co_await hasher_.hash(std::move(request), exported_, nbd_port_, exported);
}

Task<Result<>> DestinationDisks::stop_server(Deadline deadline) {
    if (target_) co_return co_await target_->stop_server(deadline);
    (void)co_await qmp::nbd_server_stop(*context_.guest->client,
                                        deadline);  // of a killed sidecar; else refused
    co_return Result<>{};
}

void DestinationDisks::remove_stale_images() const {
    for (auto const& image : images_) {
        if (image.kind == Kind::device) continue;
        if (!left_in_.empty()) {
            auto const removed = storage::remove_tombstone(image.path(), left_in_);
            if (!removed) {
                core::log::warning("guest={} {}", context_.name, removed.error().sentence());
            }
            if (removed && !removed->empty())
                core::log::info("guest={} removed the stale {}", context_.name, image.path());
        }
        auto const left = storage::tombstones_of(image.path());
        for (auto const& path : left.value_or(std::vector<std::string>())) {
            core::log::info(
                "guest={} leaving {}: it does not belong to the migration in which the guest left "
                "this host",
                context_.name, path);
        }
    }
}

void DestinationDisks::leave_devices_to_guest() {
    claims_.clear();
    // Not images_, which are not in the record of a guest that is owned here.
    for (auto const& disk : context_.description.disks) {
        auto const path = image_path(context_.options.maps, disk);
        if (!storage::is_block_device(path)) continue;
        auto const forgotten = forget_left_device(context_.paths, path, {});
        if (!forgotten)
            core::log::warning("guest={} {}", context_.name, forgotten.error().sentence());
    }
}

Task<void> DestinationDisks::forget_exports() {
    co_await hasher_.close();
    target_.reset();
}

Result<> DestinationDisks::remove_images() {
    claims_.clear();
    return remove_created(images_, context_.name, context_.migration_id);
}

void DestinationDisks::add_to(IncomingRecord& record) const {
    record.images = images_;
    record.nbd_port = nbd_port_;
    record.left_in = left_in_;
}

void DestinationDisks::restore(IncomingRecord const& record) {
    images_ = record.images;
    nbd_port_ = record.nbd_port;
    left_in_ = record.left_in;
}

std::vector<std::string> DestinationDisks::export_names() const {
    std::vector<std::string> names;
    for (auto const& disk : exported_) names.push_back(disk.export_name);
    return names;
}

}  // namespace sidecar
