#include "sidecar/guest/tpm.hpp"

#include <sys/stat.h>

#include <charconv>
#include <climits>
#include <filesystem>

#include "core/log.hpp"
#include "sidecar/host/process_user.hpp"
#include "storage/stale_image.hpp"

namespace sidecar {

using core::Deadline;
using core::Errc;
using core::fail;
using core::Json;
using core::Result;
using core::Task;

namespace {

/// The process that was started to be a guest's TPM.
struct Swtpm {
    pid_t pid = -1;
    std::vector<std::string> argv;
    std::string working_directory;
};

/// The value of a long option: "--NAME VALUE" or "--NAME=VALUE". None: it is not given.
std::optional<std::string> value_of(std::vector<std::string> const& argv, std::string const& name) {
    for (std::size_t i = 1; i < argv.size(); ++i) {
        if (argv[i] == name && i + 1 < argv.size()) return argv[i + 1];
        if (argv[i].starts_with(name + "=")) return argv[i].substr(name.size() + 1);
    }
    return {};
}

/// The socket on which QEMU finds it; empty: none by path.
std::string control_socket_of(Swtpm const& process) {
    auto const control = value_of(process.argv, "--ctrl");
    auto const settings = qmp::Settings::parse(control.value_or(""), "");
    auto const path = settings ? settings->get_or("path", "") : "";
    return path.empty() ? "" : absolute(path, process.working_directory);
}

/// Arguments are what a process says of itself. That of another user may name only what is its own,
/// and no single file: whose that is may change until it is renamed.
bool may_name(Swtpm const& process, std::string const& state) {
    auto const user = user_of(process.pid);
    if (!user) return false;
    if (!is_other_user(*user)) return true;
    struct stat directory{};
    return stat(state.c_str(), &directory) == 0 && S_ISDIR(directory.st_mode) &&
           directory.st_uid == user->uid;
}

/// The state's directory, or its file with `backend-uri=file://`.
std::string state_of(Swtpm const& process) {
    auto const option = value_of(process.argv, "--tpmstate");
    auto const settings = qmp::Settings::parse(option.value_or(""), "");
    if (!settings) return {};
    auto place = settings->get_or("dir", "");
    auto const uri = settings->get_or("backend-uri", "");
    for (std::string_view const scheme : {"dir://", "file://"}) {
        if (uri.starts_with(scheme)) place = uri.substr(scheme.size());
    }
    if (place.empty()) return {};
    place = absolute(place, process.working_directory);
    return may_name(process, place) ? place : "";
}

/// By its arguments: swtpm may have put itself into the background since, and has no other client
/// than QEMU that it would answer.
std::optional<Swtpm> find_swtpm(std::string const& socket) {
    std::error_code error;
    for (auto const& entry : std::filesystem::directory_iterator("/proc", error)) {
        auto const number = entry.path().filename().string();
        Swtpm process;
        auto const* const end = number.data() + number.size();
        if (std::from_chars(number.data(), end, process.pid).ptr != end) continue;
        auto argv = core::command_line(process.pid);
        if (!argv || !value_of(*argv, "--ctrl")) continue;
        process.argv = std::move(*argv);
        process.working_directory = std::filesystem::read_symlink(entry.path() / "cwd", error);
        if (same_file(control_socket_of(process), socket)) return process;
    }
    return {};
}

Result<> check_not_encrypted(Swtpm const& process) {
    for (auto const* const key : {"--key", "--migration-key"}) {
        if (!value_of(process.argv, key)) continue;
        return fail(Errc::refused,
                    "the guest's swtpm (process {}) encrypts its state ({}), and the destination "
                    "does not have its key: a guest with such a TPM cannot be moved",
                    process.pid, key);
    }
    return {};
}

}  // namespace

std::string_view name(qmp::TpmVersion version) {
    return version == qmp::TpmVersion::tpm_1_2 ? "1.2" : "2.0";
}

Json Tpm::to_json() const {
    return Json::object({{"version", std::string(name(version))}, {"state", state}});
}

Result<Tpm> Tpm::from_json(Json const& json) {
    TRY(auto const version, json.text("version"));
    TRY(auto state, json.text("state"));
    if (state.size() >= PATH_MAX || (!state.empty() && !state.starts_with('/')))
        return fail(Errc::protocol, "the state of the TPM is at no absolute path");
    for (auto const known : {qmp::TpmVersion::tpm_1_2, qmp::TpmVersion::tpm_2_0}) {
        if (version == name(known)) return Tpm{known, std::move(state)};
    }
    return fail(Errc::protocol, "TPM version {} is not known", version);
}

std::string tpm_directory(Paths const& paths, std::string const& guest) {
    return paths.state(guest) + "/tpm";
}

std::string stale_tpm_state(std::string const& file, std::string const& migration_id) {
    return file + ".moved-" + migration_id;  // storage::has_stale_name() knows it
}

std::vector<std::string> tpm_state_files(std::string const& directory) {
    std::vector<std::string> files;
    std::error_code error;
    for (auto const& entry : std::filesystem::directory_iterator(directory, error)) {
        auto const file = entry.path().filename().string();
        bool const state = file.starts_with("tpm2-00.") || file.starts_with("tpm-00.");
        if (state && !storage::has_stale_name(entry.path().string()))
            files.push_back(entry.path().string());
    }
    return files;
}

Task<Result<std::optional<Tpm>>> tpm_of(Guest& guest, Deadline deadline) {
    auto const option = guest.command_line.tpm();
    if (!option || option->type != "emulator") co_return std::nullopt;
    CO_TRY(auto const version, co_await qmp::tpm_version(*guest.client, deadline));
    if (!version) {
        co_return fail(
            Errc::refused,
            "QEMU was started with `-tpmdev`, and the guest has no TPM: leave the option "
            "out");
    }
    Tpm tpm{*version};
    if (option->socket.empty()) {  // our own swtpm
        tpm.state = tpm_directory(guest.paths, guest.name);
        co_return tpm;
    }
    auto const process = find_swtpm(absolute(option->socket, guest.working_directory));
    if (process) {
        CO_TRY_VOID(check_not_encrypted(*process));
        tpm.state = state_of(*process);
    }
    co_return tpm;
}

void set_tpm_state_aside(Tpm const& tpm, std::string const& guest,
                         std::string const& migration_id) {
    if (tpm.state.empty()) return;
    std::error_code error;
    std::vector<std::string> files{tpm.state};
    if (std::filesystem::is_directory(tpm.state, error)) files = tpm_state_files(tpm.state);
    for (auto const& file : files) {
        // A link itself, and not what it leads to: swtpm follows none, either.
        auto const stale = stale_tpm_state(file, migration_id);
        bool const renamed = std::filesystem::is_regular_file(file, error) &&
                             rename(file.c_str(), stale.c_str()) == 0;
        if (renamed) {
            core::log::info("guest={} migration_id={} the stale state of its TPM is now {}", guest,
                            migration_id, stale);
        } else if (std::filesystem::exists(file, error)) {
            core::log::warning(
                "guest={} migration_id={} {} is the stale state of its TPM, and could not be "
                "renamed: start no swtpm with it",
                guest, migration_id, file);
        }
    }
}

}  // namespace sidecar
