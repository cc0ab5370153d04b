#include "sidecar/guest/description.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <climits>

#include "core/tls.hpp"
#include "netmove/evpn_mover.hpp"
#include "netmove/routes_mover.hpp"
#include "netmove/vxlan_mover.hpp"
#include "qmp/block.hpp"
#include "qmp/migration.hpp"
#include "qmp/schema.hpp"
#include "qmp/vm.hpp"
#include "sidecar/guest/guest_drift.hpp"
#include "sidecar/guest/qemu_schema.hpp"
#include "sidecar/guest/qemu_user.hpp"
#include "sidecar/guest/running_line.hpp"
#include "sidecar/host/limits.hpp"
#include "sidecar/libvirt/domain_xml.hpp"
#include "sidecar/registry/limits.hpp"
#include "storage/image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

constexpr std::size_t disks_max =
    256;          // more than any guest's PCI slots and SCSI targets we have seen
constexpr std::size_t arguments_max =
    4096;     // of a command line; libvirt's longest have a few hundred
constexpr std::size_t interfaces_max = 64;
constexpr std::size_t devices_max = 4096;  // a PCI tree of 256 buses does not have more

/// "/machine/peripheral/disk0/virtio-backend" -> "disk0"
std::string short_name(qmp::BlockDevice const& disk) {
    constexpr std::string_view peripheral = "/machine/peripheral/";
    if (disk.qdev.starts_with(peripheral)) {
        auto const rest = disk.qdev.substr(peripheral.size());
        return rest.substr(0, rest.find('/'));
    }
    if (!disk.device.empty()) return disk.device;
    if (!disk.qdev.empty() && disk.qdev.front() != '/') return disk.qdev;
    return disk.node_name;
}

/// Whether the line fixes the size of a device's ROM (romsize=), whatever its file has. QEMU sets
/// the property itself where the line does not, so the property does not say.
bool has_fixed_rom_size(qmp::CommandLine const& line, std::string const& device) {
    return std::ranges::any_of(line.options(), [&](qmp::Option const& option) {
        if (option.kind() == "global")
            return option.value.value_or("").find("romsize") != std::string::npos;
        if (option.kind() != "device") return false;
        auto const settings = option.settings_or_empty();
        return settings.has("romsize") && (!settings.has("id") || settings.get("id") == device);
    });
}

/// What a copy of the guest's data would leave behind; empty: nothing.
std::string what_is_inside(qmp::BlockDevice const& disk, std::string const& name) {
    if (disk.snapshots > 0) {
        return fmt::format(
            "disk {} has {} internal snapshots (`qemu-img snapshot -l`), which are not "
            "copied and would be lost: delete them first (delvm), or make them images of "
            "their own (`qemu-img convert -l`)",
            name, disk.snapshots);
    }
    for (auto const& bitmap : disk.bitmaps) {
        if (!bitmap.persistent) continue;
        return fmt::format(
            "disk {} has the persistent dirty bitmap {} of another program (of a backup?), "
            "which is not copied: remove it first (block-dirty-bitmap-remove); the next "
            "backup is a full one then",
            name, bitmap.name);
    }
    return {};
}

Result<MovedDisk> look_at(qmp::BlockDevice const& disk, std::string const& working_directory) {
    MovedDisk moved;
    moved.name = short_name(disk);
    moved.device = disk.device;
    moved.qdev = disk.qdev;
    moved.node = disk.node_name;
    moved.top_node = disk.top_node;
    moved.limits = disk.limits;
    moved.format = disk.format;
    moved.virtual_bytes = disk.virtual_bytes;
    if (disk.format != "raw" && disk.format != "qcow2") {
        return fail(Errc::refused, "disk {} has format {}: only raw and qcow2 can be moved",
                    moved.name, disk.format);
    }
    if (disk.encrypted)
        return fail(Errc::refused, "disk {} is encrypted: that cannot be moved yet", moved.name);
    moved.left_behind = what_is_inside(disk, moved.name);
    moved.path = absolute(disk.file_name, working_directory);
    struct stat file{};
    if (disk.file_name.empty() || stat(moved.path.c_str(), &file) < 0) {
        return fail(
            Errc::refused,
            "the image of disk {} ({}) is not found here: it must be a local file that has its "
            "name still, and no temporary overlay (snapshot=on)",
            moved.name, disk.file_name);
    }
    if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode)) {
        return fail(Errc::refused, "disk {} ({}) is neither a file nor a block device", moved.name,
                    moved.path);
    }
    if (S_ISBLK(file.st_mode) && moved.format != "raw") {
        return fail(Errc::refused,
                    "disk {} is a {} image on the block device {}: only raw disks can be moved "
                    "from a device",
                    moved.name, moved.format, moved.path);
    }
    TRY(moved.access, storage::access_of(moved.path));
    return moved;
}

Result<> check_features(qmp::Schema const& schema, std::string const& version) {
    auto const missing = [&](std::string_view what) {
        return fail(Errc::refused, "this QEMU ({}) has no {}: QEMU 7.1 or later is needed", version,
                    what);
    };
    for (char const* capability :
         {"events", "return-path", "pause-before-switchover", "late-block-activate"}) {
        if (!schema.has_migration_capability(capability))
            return missing(fmt::format("migration capability `{}`", capability));
    }
    for (char const* command :
         {"migrate-continue", "block-export-add", "block-dirty-bitmap-merge", "transaction"}) {
        if (!schema.has_command(command)) return missing(fmt::format("command `{}`", command));
    }
    if (!schema.has_argument("block-export-add", "bitmaps/node"))
        return missing("export of an enabled dirty bitmap");
    return {};
}

Result<GuestState> accepted_state(qmp::Status const& status, RunStatePolicy standing) {
    if (standing == RunStatePolicy::movable) return movable_state(status.status);
    if (status.running || is_stopped(status.status)) return GuestState::running;
    return fail(Errc::refused, "the guest is not running (QEMU says {}): continue it first",
                status.status);
}

Task<Result<GuestState>> check_idle(qmp::Client& client, RunStatePolicy standing,
                                    Deadline deadline) {
    CO_TRY(auto const status, co_await qmp::query_status(client, deadline));
    CO_TRY(auto const migration, co_await qmp::query_migrate(client, deadline));
    constexpr std::string_view idle[] = {"", "none", "completed", "failed", "cancelled"};
    if (std::find(std::begin(idle), std::end(idle), migration.status) == std::end(idle)) {
        co_return fail(
            Errc::refused,
            "another migration of this guest is under way in QEMU (status {}): cancel it "
            "first with migrate_cancel",
            migration.status);
    }
    CO_TRY(auto const state, accepted_state(status, standing));
    if (!migration.blocked_reasons.empty()) {
        co_return fail(Errc::refused, "QEMU cannot migrate this guest: {}",
                       migration.blocked_reasons.front());
    }
    CO_TRY(auto const jobs, co_await qmp::query_jobs(client, deadline));
    for (auto const& job : jobs) {
        if (job.status == "concluded" || job.status == "null") continue;
        co_return fail(Errc::refused,
                       "the block job {} ({}) is running: wait for it or cancel it first", job.id,
                       job.type);
    }
    CO_TRY(auto const exports, co_await qmp::query_block_exports(client, deadline));
    for (auto const& entry : exports) {
        // Left by an earlier try; `prepare` clears it.
        if (entry.id.starts_with("sidecar-")) continue;
        co_return fail(Errc::refused,
                       "QEMU's NBD server is in use (export {}): QEMU has only one, end that first",
                       entry.id);
    }
    co_return state;
}

/// As its host has it now; what earlier moves have left of their own is forgotten.
Result<netmove::GuestInterface> interface_now(Guest& guest, Nic const& nic) {
    auto interface = nic.interface;
    interface.vxlan_source.reset();
    interface.vxlan_destination.reset();
    interface.evpn = false;
    interface.anchor.reset();
    interface.port.reset();
    if (!interface.bridge.empty()) {
        TRY(interface.port, netmove::port_settings(*guest.netlink, interface.tap));
        TRY(interface.vxlan_source, netmove::vxlan_end(*guest.netlink, interface.bridge));
    }
    if (interface.vxlan_source) {
        TRY(interface.vxlan_source->evpn,
            netmove::evpn_knows(*guest.netlink, interface.bridge, interface.mac));
    }
    if (interface.routed) {
        TRY(auto const renewals, netmove::renewals_of(*guest.netlink, interface.tap));
        interface.renewals = renewals.value_or(interface.renewals);
    }
    return interface;
}

}  // namespace

qmp::BlockDevice const* find_drive(std::vector<qmp::BlockDevice> const& drives,
                                   MovedDisk const& disk) {
    auto const found = std::ranges::find_if(drives, [&](qmp::BlockDevice const& drive) {
        if (!drive.inserted) return false;
        if (!disk.device.empty()) return drive.device == disk.device;
        bool const path = disk.qdev.starts_with('/');
        bool const named = !disk.node.empty() && disk.node.front() != '#';
        return drive.qdev == disk.qdev || (path && named && drive.node_name == disk.node);
    });
    return found == drives.end() ? nullptr : &*found;
}

std::string new_migration_id() { return core::random_hex(8); }

bool is_stopped(std::string const& run_state) { return is_off(run_state) || run_state == "paused"; }

bool is_off(std::string const& run_state) {
    return run_state == "prelaunch" || run_state == "shutdown";
}

Task<Result<Description>> describe(Guest& guest, std::string migration_id,
                                   std::vector<std::string> bases, RunStatePolicy standing,
                                   Deadline deadline) {
    auto& client = *guest.client;
    Description description;
    CO_TRY(description.state, co_await check_idle(client, standing, deadline));
    CO_TRY(auto const schema, co_await schema_of(guest, deadline));
    CO_TRY_VOID(check_features(schema, client.version()));
    description.guest = guest.name;
    description.migration_id = std::move(migration_id);
    CO_TRY(auto running, co_await running_line(client, guest.process.pid(), guest.command_line,
                                               guest.working_directory, deadline));
    CO_TRY_VOID(co_await guest.renew_nics(running));
    auto const& line = running.line;
    description.argv = line.without_wrapper().argv();
    description.warnings = std::move(running.warnings);
    description.working_directory = guest.working_directory;
    description.qemu_version = client.version();
    CO_TRY(description.machine_type, co_await qmp::machine_type(client, deadline));
    CO_TRY(auto const memory, co_await client.execute("query-memory-size-summary", {}, deadline));
    description.ram_bytes = static_cast<std::uint64_t>(memory["base-memory"].integer_or(0) +
                                                       memory["plugged-memory"].integer_or(0));
    CO_TRY(auto const devices, co_await qmp::query_block(client, deadline));
    for (auto const& device : devices) {
        if (!device.inserted || device.read_only) continue;  // guest_files.hpp
        CO_TRY(auto disk, look_at(device, guest.working_directory));
        description.disks.push_back(std::move(disk));
    }
    CO_TRY_VOID(co_await find_bases(guest, std::move(bases), description, deadline));
    CO_TRY(description.devices, co_await device_names(client, deadline));
    CO_TRY_VOID(check_qemu_may_write(guest.process.pid(), description.disks));
    CO_TRY(description.throttle_groups, co_await throttle_groups_of(client, deadline));
    CO_TRY(description.option_roms, co_await option_roms_of(client, deadline));
    std::erase_if(description.option_roms,
                  [&](OptionRom const& rom) { return has_fixed_rom_size(line, rom.device); });
    description.firmware =
        co_await firmware_of(guest.loop, line, guest.working_directory, deadline);
    CO_TRY(description.tpm, co_await tpm_of(guest, deadline));
    CO_TRY_VOID(check_images(line, description));
    CO_TRY_VOID(check_media(line, devices, guest.working_directory));
    guest.take_in_addresses();
    for (auto const& nic : guest.nics) {
        CO_TRY(auto interface, interface_now(guest, *nic));
        description.interfaces.push_back(std::move(interface));
    }
    co_return description;
}

Result<> check_nothing_left_behind(Description const& description) {
    for (auto const& disk : description.disks) {
        if (!disk.left_behind.empty()) return fail(Errc::refused, "{}", disk.left_behind);
    }
    return {};
}

Json MovedDisk::to_json() const {
    Json base_list = Json::array();
    for (auto const& base : bases) base_list.add(base.to_json());
    Json names = Json::array();
    for (auto const& image : chain) names.add(image);
    return Json::object({{"name", name},
                         {"device", device},
                         {"qdev", qdev},
                         {"node", node},
                         {"limits", limits},
                         {"path", path},
                         {"target", target},
                         {"format", format},
                         {"virtual_bytes", virtual_bytes},
                         {"allocated_bytes", allocated_bytes},
                         {"cluster_bytes", layout.cluster_bytes},
                         {"compat", layout.compat},
                         {"compression", layout.compression},
                         {"refcount_bits", layout.refcount_bits},
                         {"extended_l2", layout.extended_l2},
                         {"lazy_refcounts", layout.lazy_refcounts},
                         {"access", access ? access->to_json() : Json()},
                         {"bases", base_list},
                         {"layers_above_base", layers_above_base},
                         {"base_is_relative", base_is_relative},
                         {"shared_inode", shared_inode},
                         {"chain", names}});
}

namespace {

bool is_one_of(std::string const& word, std::initializer_list<char const*> words) {
    return std::ranges::find(words, word) != words.end();
}

/// Fields that older sidecars do not send are left to qemu-img.
Result<storage::Qcow2Layout> layout_from(Json const& json, std::uint64_t cluster_bytes) {
    storage::Qcow2Layout layout{.cluster_bytes = cluster_bytes,
                                .compat = json["compat"].text_or(""),
                                .compression = json["compression"].text_or(""),
                                .extended_l2 = json["extended_l2"].boolean_or(false),
                                .lazy_refcounts = json["lazy_refcounts"].boolean_or(false)};
    auto const bits = json["refcount_bits"].integer_or(0);
    if (!is_one_of(layout.compat, {"", "0.10", "1.1"}) ||
        !is_one_of(layout.compression, {"", "zlib", "zstd"}) || bits < 0 || bits > 64) {
        return fail(Errc::protocol, "the layout of a disk is not one of qcow2");
    }
    layout.refcount_bits = static_cast<std::uint64_t>(bits);
    return layout;
}

Result<> take_chain(MovedDisk& disk, Json const& json) {
    auto const layers = json["layers_above_base"].integer_or(0);
    if (json["bases"].size() > limits::bases_max || json["chain"].size() > limits::layers_max ||
        layers < 0 || layers > static_cast<std::int64_t>(limits::layers_max)) {
        return fail(Errc::protocol, "the chain of disk {} is too long", disk.name);
    }
    for (auto const& one : json["bases"].elements()) {
        TRY(auto base, Base::from_json(one));
        disk.bases.push_back(std::move(base));
    }
    for (auto const& image : json["chain"].elements()) disk.chain.push_back(image.text_or(""));
    disk.layers_above_base = static_cast<unsigned>(layers);
    disk.base_is_relative = json["base_is_relative"].boolean_or(false);
    if (disk.bases.empty() != (layers == 0) || (layers > 0 && disk.format != "qcow2")) {
        return fail(Errc::protocol, "disk {} is described with a base that it cannot have",
                    disk.name);
    }
    return {};
}

}  // namespace

Result<MovedDisk> MovedDisk::from_json(Json const& json) {
    MovedDisk disk;
    TRY(disk.name, json.text("name"));
    TRY(disk.device, json.text("device"));
    TRY(disk.qdev, json.text("qdev"));
    TRY(disk.node, json.text("node"));
    TRY(disk.limits, limits_from_json(json["limits"]));
    TRY(disk.path, json.text("path"));
    TRY(disk.format, json.text("format"));
    std::uint64_t cluster_bytes = 0;
    std::pair<char const*, std::uint64_t*> const sizes[] = {
        {"virtual_bytes", &disk.virtual_bytes},
        {"allocated_bytes", &disk.allocated_bytes},
        {"cluster_bytes", &cluster_bytes}};
    for (auto const& [key, value] : sizes) {
        TRY(auto const number, json.integer(key));
        if (number < 0) return fail(Errc::protocol, "`{}` of disk {} is negative", key, disk.name);
        *value = static_cast<std::uint64_t>(number);
    }
    if (disk.format != "raw" && disk.format != "qcow2")
        return fail(Errc::protocol, "disk format {} is not supported", disk.format);
    if (disk.path.empty() || disk.path.front() != '/')
        return fail(Errc::protocol, "disk path {} is not absolute", disk.path);
    disk.target = json["target"].text_or("");
    bool const has_target = !disk.target.empty();
    if (has_target && (disk.target.front() != '/' || disk.target.size() >= PATH_MAX))
        return fail(Errc::protocol, "disk target {} is not an absolute path", disk.target);
    TRY(disk.layout, layout_from(json, cluster_bytes));
    if (!json["access"].is_null()) {
        TRY(disk.access, storage::FileAccess::from_json(json["access"]));
    }
    TRY_VOID(take_chain(disk, json));
    disk.shared_inode = json["shared_inode"].text_or("");
    return disk;
}

Json Description::to_json() const {
    Json words = Json::array();
    for (auto const& word : argv) words.add(word);
    Json disk_list = Json::array();
    for (auto const& disk : disks) disk_list.add(disk.to_json());
    Json shared_list = Json::array();
    for (auto const& disk : shared) shared_list.add(disk.to_json());
    Json device_list = Json::array();
    for (auto const& device : devices) device_list.add(device);
    Json link_list = Json::array();
    for (auto const& netdev : links_down) link_list.add(netdev);
    Json file_list = Json::array();
    for (auto const& file : files) file_list.add(file.to_json());
    Json interface_list = Json::array();
    for (auto const& interface : interfaces) interface_list.add(interface.to_json());
    return Json::object({{"guest", guest},
                         {"migration_id", migration_id},
                         {"argv", words},
                         {"working_directory", working_directory},
                         {"machine_type", machine_type},
                         {"qemu_version", qemu_version},
                         {"ram_bytes", ram_bytes},
                         {"state", std::string(name(state))},
                         {"disks", disk_list},
                         {"shared", shared_list},
                         {"shared_secret", shared_secret},
                         {"devices", device_list},
                         {"device_tree", device_tree ? device_tree->to_json() : Json()},
                         {"links_down", link_list},
                         {"throttle_groups", throttle_groups_json(throttle_groups)},
                         {"option_roms", option_roms_json(option_roms)},
                         {"firmware", firmware_json(firmware)},
                         {"tpm", tpm ? tpm->to_json() : Json()},
                         {"files", file_list},
                         {"interfaces", interface_list},
                         {"domain_xml", domain_xml},
                         {"owner", owner ? owner->to_json() : Json()}});
}

std::vector<std::string> Description::addresses() const {
    std::vector<std::string> all;
    for (auto const& interface : interfaces) {
        for (auto const& one : interface.addresses) {
            if (all.size() < registry::limits::addresses_max) all.push_back(one.address.text());
        }
    }
    return all;
}

Result<Description> Description::from_json(Json const& json) {
    Description made;
    TRY(made.guest, json.text("guest"));
    TRY_VOID(check_guest_name(made.guest));
    TRY(made.migration_id, json.text("migration_id"));
    // It becomes part of file and export names as well.
    TRY_VOID(check_guest_name(made.migration_id));
    TRY(made.working_directory, json.text("working_directory"));
    TRY(made.machine_type, json.text("machine_type"));
    TRY(made.qemu_version, json.text("qemu_version"));
    TRY(auto const ram, json.integer("ram_bytes"));
    made.ram_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(ram, 0));
    auto const state = json["state"].text_or("running");  // older releases move no other guests
    auto const known = guest_state(state);
    if (!known) return fail(Errc::protocol, "the guest's run state {} is not known", state);
    made.state = *known;
    if (json["argv"].size() > arguments_max ||
        json["disks"].size() + json["shared"].size() > disks_max ||
        json["interfaces"].size() > interfaces_max || json["devices"].size() > devices_max ||
        json["links_down"].size() > interfaces_max ||
        json["files"].size() > limits::guest_files_max) {
        return fail(Errc::protocol, "the guest's description is too long");
    }
    for (auto const& word : json["argv"].elements()) made.argv.push_back(word.text_or(""));
    for (auto const& device : json["devices"].elements())
        made.devices.push_back(device.text_or(""));
    for (auto const& netdev : json["links_down"].elements())
        made.links_down.push_back(netdev.text_or(""));
    for (auto const& disk : json["disks"].elements()) {
        TRY(auto one, MovedDisk::from_json(disk));
        made.disks.push_back(std::move(one));
    }
    for (auto const& disk : json["shared"].elements()) {
        TRY(auto one, MovedDisk::from_json(disk));
        if (one.shared_inode.empty())
            return fail(Errc::protocol, "shared disk {} is described without its inode", one.name);
        made.shared.push_back(std::move(one));
    }
    made.shared_secret = json["shared_secret"].text_or("");
    if (!json["device_tree"].is_null()) {
        TRY(made.device_tree, DeviceTree::from_json(json["device_tree"]));
    }
    TRY(made.throttle_groups, throttle_groups_from_json(json["throttle_groups"]));
    TRY(made.option_roms, option_roms_from_json(json["option_roms"]));
    TRY(made.firmware, firmware_from_json(json["firmware"]));
    if (!json["tpm"].is_null()) {
        TRY(made.tpm, Tpm::from_json(json["tpm"]));
    }
    for (auto const& file : json["files"].elements()) {
        TRY(auto one, GuestFile::from_json(file));
        made.files.push_back(std::move(one));
    }
    for (auto const& interface : json["interfaces"].elements()) {
        TRY(auto one, netmove::GuestInterface::from_json(interface));
        made.interfaces.push_back(std::move(one));
    }
    made.domain_xml = json["domain_xml"].text_or("");
    if (made.domain_xml.size() > libvirt::domain_xml_bytes_max)
        return fail(Errc::protocol, "the guest's definition for libvirt is too long");
    if (!json["owner"].is_null()) {
        TRY(made.owner, registry::Entry::from_json(json["owner"]));
        if (made.owner->guest != made.guest)
            return fail(Errc::protocol, "the owner in the description is another guest's");
    }
    if (made.argv.empty())
        return fail(Errc::protocol, "the guest's description has no command line");
    return made;
}

}  // namespace sidecar
