// The commands about the machine as a whole: state, objects, descriptors, names. One function for
// each QMP command, with QEMU's name in snake_case; all fail as Client::execute does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qmp/client.hpp"

namespace qmp {

struct Status {
    bool running = false;
    std::string status;  ///< QEMU's RunState: "running", "paused", "postmigrate", "inmigrate", ...
};
Task<Result<Status>> query_status(Client& client, Deadline deadline);

Task<Result<>> cont(Client& client, Deadline deadline);
Task<Result<>> stop(Client& client, Deadline deadline);
/// QEMU answers, then ends; the connection ends with it.
Task<Result<>> quit(Client& client, Deadline deadline);

/// "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": for messages only.
Task<Result<std::string>> query_version(Client& client, Deadline deadline);
/// The guest's -name; empty when it has none.
Task<Result<std::string>> query_name(Client& client, Deadline deadline);
Task<Result<std::string>> query_uuid(Client& client, Deadline deadline);

struct MachineType {
    std::string name;  ///< "pc-i440fx-7.2"
    std::string alias;  ///< "pc", or empty
    bool is_default = false;
    bool deprecated = false;
    std::int64_t cpus_max = 0;
};
Task<Result<std::vector<MachineType>>> query_machines(Client& client, Deadline deadline);
/// The running machine's full, versioned type, from QOM: "pc-i440fx-7.2".
Task<Result<std::string>> machine_type(Client& client, Deadline deadline);

struct Cpu {
    std::int64_t index = 0;
    std::int64_t thread_id = 0;
    std::string qom_path;  ///< qom_get() of its "type" names the model
};
Task<Result<std::vector<Cpu>>> query_cpus_fast(Client& client, Deadline deadline);

/// A property of an object of the machine, by path ("/machine/peripheral/net0") or unambiguous id.
Task<Result<Json>> qom_get(Client& client, std::string path, std::string property,
                           Deadline deadline);
Task<Result<>> qom_set(Client& client, std::string path, std::string property, Json value,
                       Deadline deadline);
struct QomProperty {
    std::string name;
    std::string type;
};
Task<Result<std::vector<QomProperty>>> qom_list(Client& client, std::string path,
                                                Deadline deadline);

/// `properties`: {"qom-type": ..., "id": ..., ...}
Task<Result<>> object_add(Client& client, Json properties, Deadline deadline);
Task<Result<>> object_del(Client& client, std::string id, Deadline deadline);

/// The paths of the machine's virtio devices of that kind: "virtio-net". Their parents have what
/// the user gave them. (x-query-virtio: QEMU may change or drop it.)
Task<Result<std::vector<std::string>>> query_virtio(Client& client, std::string kind,
                                                    Deadline deadline);
/// Whether QEMU has found too few buffers in a split virtqueue and waits for the guest to offer
/// more: it then writes the index up to which it has looked into the used ring's avail_event
/// (virtio 1.2, 2.7.10), and at no other time. False also of a queue without VIRTIO_F_EVENT_IDX,
/// and of a device that uses an IOMMU. (x-query-virtio-queue-status, and HMP's xp for the guest's
/// memory.)
Task<Result<bool>> virtio_queue_waits(Client& client, std::string path, unsigned queue,
                                      Deadline deadline);

enum class TpmVersion : std::uint8_t { tpm_1_2, tpm_2_0 };
/// Of the guest's TPM; none: it has none that a device uses. (query-tpm, and for a tpm-tis HMP's xp
/// of its register that says so: reading that changes nothing.)
Task<Result<std::optional<TpmVersion>>> tpm_version(Client& client, Deadline deadline);

/// Gives QEMU a duplicate of `fd` under `name`, for commands that take a descriptor by name.
Task<Result<>> getfd(Client& client, std::string name, int fd, Deadline deadline);
Task<Result<>> closefd(Client& client, std::string name, Deadline deadline);

/// Every job (mirror, backup, commit, ...) that runs now.
struct Job {
    std::string id;
    std::string type;
    std::string status;
};
Task<Result<std::vector<Job>>> query_jobs(Client& client, Deadline deadline);

}  // namespace qmp
