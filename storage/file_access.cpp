#include "storage/file_access.hpp"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>

namespace storage {

using core::Errc;
using core::fail;
using core::Json;
using core::Result;

namespace {

constexpr unsigned permissions = 0777;
/// Of Linux (useradd(8)); longer ones are not names.
constexpr std::size_t name_bytes_max = 256;
/// An account that no file belongs to: (uid_t)-1 is "unchanged" for chown(2).
constexpr std::int64_t id_max = 0xfffffffe;

struct Entry {
    std::string name;
    unsigned id;
};

/// The first entry of such a file that `wanted` accepts. `next`: fgetpwent(3), fgetgrent(3).
template <class Next, class Wanted>
std::optional<Entry> find_entry(char const* path, Next const& next, Wanted const& wanted) {
    std::unique_ptr<FILE, int (*)(FILE*)> const file(std::fopen(path, "re"), &std::fclose);
    while (file) {
        auto const entry = next(file.get());
        if (!entry || wanted(*entry)) return entry;
    }
    return {};
}

template <class Wanted>
std::optional<Entry> find_user(Wanted const& wanted) {
    auto const next = [](FILE* file) -> std::optional<Entry> {
        auto const* const entry = ::fgetpwent(file);
        if (entry == nullptr) return {};
        return Entry{entry->pw_name, entry->pw_uid};
    };
    return find_entry("/etc/passwd", next, wanted);
}

template <class Wanted>
std::optional<Entry> find_group(Wanted const& wanted) {
    auto const next = [](FILE* file) -> std::optional<Entry> {
        auto const* const entry = ::fgetgrent(file);
        if (entry == nullptr) return {};
        return Entry{entry->gr_name, entry->gr_gid};
    };
    return find_entry("/etc/group", next, wanted);
}

auto has_name(std::string const& name) {
    return [&name](Entry const& entry) { return entry.name == name; };
}
auto has_id(unsigned id) {
    return [id](Entry const& entry) { return entry.id == id; };
}

/// A number without a name is a directory service's, unless this host has given it to someone else.
std::optional<unsigned> id_here(std::string const& name, unsigned id,
                                std::optional<Entry> const& by_name,
                                std::optional<Entry> const& by_id) {
    if (!name.empty()) return by_name ? std::optional(by_name->id) : std::nullopt;
    return by_id ? std::nullopt : std::optional(id);
}

std::string word_for(std::string const& name, unsigned id) {
    return name.empty() ? std::to_string(id) : name;
}

Result<unsigned> id_from(Json const& json, char const* key) {
    TRY(auto const number, json.integer(key));
    if (number < 0 || number > id_max) return fail(Errc::protocol, "`{}` is no id", key);
    return static_cast<unsigned>(number);
}

}  // namespace

Json FileAccess::to_json() const {
    return Json::object(
        {{"user", user}, {"group", group}, {"uid", uid}, {"gid", gid}, {"mode", mode}});
}

Result<FileAccess> FileAccess::from_json(Json const& json) {
    FileAccess made;
    TRY(made.user, json.text("user"));
    TRY(made.group, json.text("group"));
    if (made.user.size() > name_bytes_max || made.group.size() > name_bytes_max) {
        return fail(Errc::protocol, "the name of a file's owner is too long");
    }
    TRY(made.uid, id_from(json, "uid"));
    TRY(made.gid, id_from(json, "gid"));
    TRY(auto const mode, json.integer("mode"));
    if (mode < 0 || mode > permissions) {
        return fail(Errc::protocol, "the permissions of a file are {:o}", mode);
    }
    made.mode = static_cast<unsigned>(mode);
    return made;
}

Result<FileAccess> access_of(std::string const& path) {
    struct stat status{};
    if (::stat(path.c_str(), &status) < 0) {
        return core::fail_errno(errno, "cannot look at {}", path);
    }
    auto const user = find_user(has_id(status.st_uid));
    auto const group = find_group(has_id(status.st_gid));
    return FileAccess{user ? user->name : "", group ? group->name : "", status.st_uid,
                      status.st_gid, status.st_mode & permissions};
}

LocalAccess local_access(FileAccess const& access) {
    LocalAccess made;
    auto const uid = id_here(access.user, access.uid, find_user(has_name(access.user)),
                             find_user(has_id(access.uid)));
    auto const gid = id_here(access.group, access.gid, find_group(has_name(access.group)),
                             find_group(has_id(access.gid)));
    made.uid = uid.value_or(0);
    made.gid = gid.value_or(0);
    if (!uid) made.missing.push_back("user " + word_for(access.user, access.uid));
    if (!gid) made.missing.push_back("group " + word_for(access.group, access.gid));
    return made;
}

std::optional<std::string> name_of_user(unsigned uid) {
    auto const user = find_user(has_id(uid));
    if (!user) return {};
    return user->name;
}

std::optional<UserIds> ids_of_user(std::string const& name) {
    std::unique_ptr<FILE, int (*)(FILE*)> const file(std::fopen("/etc/passwd", "re"), &std::fclose);
    while (file) {
        auto const* const entry = ::fgetpwent(file.get());
        if (entry == nullptr) break;
        if (name == entry->pw_name) return UserIds{entry->pw_uid, entry->pw_gid};
    }
    return {};
}

namespace {

/// access(2) as that user: for the time of the call, this thread has its rights and not root's.
bool may_access(std::string const& path, UserIds const& user, int mode) {
    auto const own_gid = static_cast<gid_t>(::setfsgid(user.gid));
    auto const own_uid = static_cast<uid_t>(::setfsuid(user.uid));
    bool const may = ::faccessat(AT_FDCWD, path.c_str(), mode, AT_EACCESS) == 0;
    ::setfsuid(own_uid);
    ::setfsgid(own_gid);
    return may;
}

}  // namespace

bool may_write(std::string const& file, UserIds const& user) {
    return may_access(file, user, R_OK | W_OK);
}

bool may_pass(std::string const& directory, UserIds const& user) {
    return may_access(directory, user, X_OK);
}

Result<> give_access(int fd, FileAccess const& access) {
    auto const here = local_access(access);
    struct stat status{};
    if (::fstat(fd, &status) < 0) return core::fail_errno(errno, "cannot look at a new file");
    bool const owned = status.st_uid == here.uid && status.st_gid == here.gid;
    if (!owned && ::fchown(fd, here.uid, here.gid) < 0) {
        return core::fail_errno(errno, "cannot give a new file to user {} and group {}", here.uid,
                                here.gid);
    }
    if (::fchmod(fd, access.mode) < 0) {
        return core::fail_errno(errno, "cannot set the permissions of a new file");
    }
    return {};
}

}  // namespace storage
