// The allow-list: options, device kinds, backends and keys of QEMU 7.2 to 10.0 that neither run a
// program, nor open a file, socket or device of the host, nor change QEMU's user or sandbox. Keys
// that name files are not here: the reviews check those by themselves. Used by review_*.cpp.
// Invariant: only what was looked up in QEMU's sources or its own help is added.
#pragma once

#include <optional>
#include <string_view>

namespace qmp::allow_list {

/// Whether `word` is one of the words of `list`, which single spaces separate.
bool has_word(std::string_view list, std::string_view word);

/// Options of any value.
bool is_harmless_option(std::string_view kind);
/// Options whose value is one word: letters, digits and "-_.:@".
bool is_word_option(std::string_view kind);
/// The keys of an option that has only harmless ones; none: it is not such an option.
std::optional<std::string_view> keys_of_option(std::string_view kind);
/// Why an option is refused that is known; empty: nothing is known of it.
std::string_view reason_against_option(std::string_view kind);

/// A kind of -device, also by an alias, and of -nic model=.
bool is_device(std::string_view driver);
bool is_device_key(std::string_view key);
/// A part of the machine that -global may name besides devices.
bool is_chipset(std::string_view driver);
/// A model of -nic and -net nic that is no device kind by itself.
bool is_nic_model(std::string_view model);

/// The keys of a kind of -object; none: it is not allowed.
std::optional<std::string_view> keys_of_object(std::string_view type);
/// A key of throttle-group: "limits.iops-total-max", "x-bps-read".
bool is_throttle_key(std::string_view key);
std::optional<std::string_view> keys_of_netdev(std::string_view type);
std::optional<std::string_view> keys_of_chardev(std::string_view backend);

bool is_block_driver(std::string_view driver);
/// A key of a block node, without those of its children.
bool is_block_key(std::string_view key);
/// A key that only -drive has.
bool is_drive_key(std::string_view key);

bool is_machine_key(std::string_view key);
bool is_accelerator(std::string_view name);

}  // namespace qmp::allow_list
