// The client and the typed commands on real QEMUs, 7.2 and 10.0: every command runs once, and its
// effect is checked.
#include <sys/eventfd.h>
#include <sys/wait.h>

#include <algorithm>

#include "core/sync.hpp"
#include "qmp/block.hpp"
#include "qmp/migration.hpp"
#include "qmp/schema.hpp"
#include "qmp/vm.hpp"
#include "tests/process/qmp_support.hpp"

namespace qmp_commands_cases {

using namespace qmp_test;

namespace {

std::string image(Qemu const& qemu, std::string const& name, std::uintmax_t bytes) {
    auto path = qemu.file(name);
    std::ofstream(path).close();
    std::filesystem::resize_file(path, bytes);
    return path;
}

// Adds the image as a node called "disk".
void add_disk(Qemu& qemu, std::string const& path) {
    auto const file = Json::object({{"driver", "file"}, {"filename", path}});
    auto const options = Json::object({{"driver", "raw"}, {"node-name", "disk"}, {"file", file}});
    must(qemu.run(qmp::blockdev_add(qemu.client(), options, soon())));
}

qmp::BlockNode disk_node(Qemu& qemu) {
    auto const nodes = get(qemu.run(qmp::query_named_block_nodes(qemu.client(), soon())));
    auto const node = std::ranges::find(nodes, "disk", &qmp::BlockNode::node_name);
    REQUIRE(node != nodes.end());
    return *node;
}

qmp::DirtyBitmap bitmap_of(qmp::BlockNode const& node, std::string const& name) {
    auto const found = std::ranges::find(node.bitmaps, name, &qmp::DirtyBitmap::name);
    REQUIRE(found != node.bitmaps.end());
    return *found;
}

Task<void> ask(qmp::Client& client, std::string command, Result<Json>& answer) {
    answer = co_await client.execute(std::move(command), {}, soon());
}

// Sends a command to a QEMU that is stopped by SIGSTOP, then kills it.
Task<Result<Json>> ask_and_kill(Loop& loop, Qemu& qemu) {
    Result<Json> answer = Json();
    core::TaskGroup scope(loop);
    (void)qemu.process().signal(SIGSTOP);
    scope.spawn(ask(qemu.client(), "query-status", answer));
    (void)co_await core::sleep_for(loop,
                                   20ms);  // lets the command be written; nothing depends on it
    (void)qemu.process().signal(SIGKILL);
    co_await scope.join();
    co_return answer;
}

Task<Result<qmp::Event>> next_named(qmp::Subscription& events, std::string name,
                                    std::string status) {
    while (true) {
        CO_TRY(auto event, co_await events.next(soon()));
        if (event.name != name) continue;
        if (status.empty() || event.data["status"].text_or("") == status) co_return event;
    }
}

}  // namespace

TEST_CASE("state, names and machine", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program, {"-name", "web1", "-uuid", "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11"});
        auto& client = qemu.client();
        auto events = client.subscribe({"STOP", "RESUME"});
        auto status = get(qemu.run(qmp::query_status(client, soon())));
        CHECK_FALSE(status.running);
        CHECK(status.status == "prelaunch");
        must(qemu.run(qmp::cont(client, soon())));
        auto const resumed = get(qemu.run(events.next(soon())));
        CHECK(resumed.name == "RESUME");
        CHECK(resumed.timestamp_us > 1'600'000'000'000'000);
        CHECK(get(qemu.run(qmp::query_status(client, soon()))).running);
        must(qemu.run(qmp::stop(client, soon())));
        CHECK(get(qemu.run(events.next(soon()))).name == "STOP");

        CHECK(get(qemu.run(qmp::query_name(client, soon()))) == "web1");
        CHECK(get(qemu.run(qmp::query_uuid(client, soon()))) ==
              "0b5c7d4e-7a5f-4bd3-9c5c-6f0d1f1f7a11");
        auto const version = get(qemu.run(qmp::query_version(client, soon())));
        CHECK(version == client.version());
        auto const type = get(qemu.run(qmp::machine_type(client, soon())));
        CHECK(type.starts_with("pc-i440fx-"));
        auto const machines = get(qemu.run(qmp::query_machines(client, soon())));
        auto const found = std::ranges::find(machines, type, &qmp::MachineType::name);
        REQUIRE(found != machines.end());
        CHECK(found->alias == "pc");
        CHECK(found->cpus_max > 1);
        auto const cpus = get(qemu.run(qmp::query_cpus_fast(client, soon())));
        REQUIRE(cpus.size() == 1);
        CHECK(cpus[0].thread_id > 0);
        auto const model = get(qemu.run(qmp::qom_get(client, cpus[0].qom_path, "type", soon())));
        CHECK(model.text_or("") == "qemu64-x86_64-cpu");
        CHECK(get(qemu.run(qmp::query_jobs(client, soon()))).empty());

        // A client that connects later still sees QEMU as its peer, because QEMU listens; not us,
        // although we made the socket.
        qemu.disconnect();
        Connected again(qemu.loop(), qemu.socket());
        CHECK(again->peer_pid() == qemu.process().pid());
        must(qemu.run(qmp::quit(*again, soon())));
        CHECK(qemu.run(again->wait_closed(soon())));
        auto const exit = qemu.run(core::wait_exit(qemu.loop(), qemu.process(), soon()));
        CHECK(get(exit) == 0);
    }
}

// The device of a guest without a driver, so that nothing waits.
TEST_CASE("a virtio device is found, and what its queue says is understood", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program, {"-netdev", "hubport,id=wire,hubid=1", "-device",
                            "virtio-net-pci,netdev=wire", "-device", "virtio-rng-pci"});
        auto& client = qemu.client();
        auto const paths = get(qemu.run(qmp::query_virtio(client, "virtio-net", soon())));
        REQUIRE(paths.size() == 1);
        auto const parent = paths[0].substr(0, paths[0].rfind('/'));
        auto const wire = get(qemu.run(qmp::qom_get(client, parent, "netdev", soon())));
        CHECK(wire.text_or("") == "wire");
        CHECK_FALSE(get(qemu.run(qmp::virtio_queue_waits(client, paths[0], 0, soon()))));
        CHECK_FALSE(qemu.run(qmp::virtio_queue_waits(client, parent, 0, soon())));
        CHECK_FALSE(qemu.run(qmp::virtio_queue_waits(client, paths[0], 999, soon())));
    }
}

TEST_CASE("what QEMU refuses keeps its class and text", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto const unknown = qemu.run(qemu.client().execute("no-such-command", {}, soon()));
        REQUIRE_FALSE(unknown);
        CHECK(unknown.error().code == Errc::qemu_refused);
        CHECK(unknown.error().what ==
              "QEMU refused no-such-command: The command no-such-command has not been found "
              "(CommandNotFound)");
        CHECK(qmp::refusal_class(unknown.error()) == "CommandNotFound");
        auto const deleted = qemu.run(qmp::object_del(qemu.client(), "none", soon()));
        REQUIRE_FALSE(deleted);
        CHECK(deleted.error().what ==
              "QEMU refused object-del: object 'none' not found (GenericError)");
        auto const bad = qemu.run(qmp::migrate_continue(qemu.client(), "pre-switchover", soon()));
        REQUIRE_FALSE(bad);
        CHECK(bad.error().code == Errc::qemu_refused);
        CHECK(qemu.client().open());
    }
}

TEST_CASE("a second client is not served, and its error says so", "[qmp][qemu]") {
    Qemu qemu(qemus().front());
    auto const second =
        qemu.run(qmp::Client::connect(qemu.loop(), qemu.socket(), Deadline::after(100ms)));
    REQUIRE_FALSE(second);
    CHECK(second.error().code == Errc::timed_out);
    CHECK(second.error().what.find("QEMU serves one at a time") != std::string::npos);
    qemu.disconnect();
    Connected third(qemu.loop(), qemu.socket());
    CHECK(third->open());
}

TEST_CASE("a QEMU is killed before it has answered", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto events = qemu.client().subscribe();
        auto const answer = qemu.run(ask_and_kill(qemu.loop(), qemu));
        REQUIRE_FALSE(answer);
        CHECK(answer.error().code == Errc::closed);
        CHECK_FALSE(qemu.client().open());
        auto const event = qemu.run(events.next(soon()));
        REQUIRE_FALSE(event);
        CHECK(event.error().code == Errc::closed);
    }
}

TEST_CASE("the schema says whether QEMU has a feature", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto const schema = get(qemu.run(qmp::query_schema(qemu.client(), soon())));
        for (auto const* command :
             {"migrate-continue", "block-export-add", "transaction", "yank"}) {
            CHECK(schema.has_command(command));
        }
        CHECK_FALSE(schema.has_command("no-such-command"));
        CHECK(schema.has_event("BLOCK_EXPORT_DELETED"));
        CHECK(schema.has_event("MIGRATION"));
        CHECK_FALSE(schema.has_event("NO_SUCH_EVENT"));
        CHECK(schema.has_argument("block-export-add", "bitmaps"));
        CHECK(schema.has_argument("block-export-add",
                                  "bitmaps/node"));  // the {"node","name"} form, 7.1
        CHECK(schema.has_argument("transaction", "actions/data/granularity"));
        CHECK(schema.has_argument("nbd-server-start", "addr/data/path"));
        CHECK_FALSE(schema.has_argument("block-export-add", "bitmap"));
        for (auto const* capability :
             {"events", "return-path", "pause-before-switchover", "late-block-activate"}) {
            CHECK(schema.has_migration_capability(capability));
        }
        CHECK_FALSE(schema.has_migration_capability("no-such-capability"));
        CHECK(schema.has_enum_value("block-export-del", "mode", "hard"));
        // Where the two versions differ; they are distinguished by their features.
        bool const newer = program.find("10.0") != std::string::npos;
        CHECK(schema.has_command("blockdev-set-active") == newer);
        CHECK(schema.has_argument("migrate-incoming", "exit-on-error") == newer);
        CHECK(schema.has_argument("block-job-change", "copy-mode") == newer);
    }
}

TEST_CASE("many commands in flight at once", "[qmp][qemu]") {
    Qemu qemu(qemus().front());
    struct Many {
        static Task<void> all(Loop& loop, qmp::Client& client, std::vector<Result<Json>>& answers) {
            core::TaskGroup scope(loop);
            for (auto& answer : answers) scope.spawn(ask(client, "query-qmp-schema", answer));
            co_await scope.join();
        }
    };
    std::vector<Result<Json>> answers(20);
    qemu.run(Many::all(qemu.loop(), qemu.client(), answers));
    for (auto const& answer : answers) {
        REQUIRE(answer);
        CHECK(answer->size() > 500);
    }
}

TEST_CASE("descriptors are passed", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto& client = qemu.client();
        core::Fd const listener = get(core::listen_tcp("127.0.0.1", "0"));
        int const port = get(core::local_port(listener.get()));
        must(qemu.run(qmp::getfd(client, "migration-socket", listener.get(), soon())));
        must(qemu.run(qmp::closefd(client, "migration-socket", soon())));
        auto const gone = qemu.run(qmp::closefd(client, "migration-socket", soon()));
        REQUIRE_FALSE(gone);
        CHECK(qmp::refusal_class(gone.error()) == "GenericError");

        // QEMU serves NBD on our listening socket, so that no other process can take its port.
        must(qemu.run(qmp::getfd(client, "nbd-socket", listener.get(), soon())));
        must(qemu.run(
            qmp::nbd_server_start(client, {qmp::fd_address("nbd-socket"), "", 4}, soon())));
        auto connected =
            qemu.run(core::connect_tcp(qemu.loop(), "127.0.0.1", std::to_string(port), soon()));
        REQUIRE(connected);
        std::byte magic[8];
        auto stream = core::plain_stream(qemu.loop(), std::move(*connected), "QEMU");
        must(qemu.run(core::read_exactly(*stream, magic, soon())));
        CHECK(std::string(reinterpret_cast<char const*>(magic), 8) == "NBDMAGIC");
        // QEMU 7.2.22 does not answer nbd-server-stop, and its main loop blocks, while a client is
        // connected that has not finished its negotiation. So close that connection first.
        stream.reset();
        must(qemu.run(qmp::nbd_server_stop(client, soon())));

        auto const bad = qemu.run(client.execute_with_fd("getfd", {}, 9999, soon()));
        REQUIRE_FALSE(bad);
        CHECK(bad.error().code == Errc::io);
    }
}

static void make_chain(std::string const& raw, std::string const& qcow2) {
    std::ofstream(raw).close();
    std::filesystem::resize_file(raw, 8 << 20);
    auto const made =
        core::spawn({"qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", qcow2}, {});
    REQUIRE(made);
    auto loop = make_loop();
    REQUIRE(get(loop->run(core::wait_exit(*loop, *made, soon()))) == 0);
}

TEST_CASE("a backing chain is reported from the top", "[qmp][qemu]") {
    Directory const directory;
    auto const raw = directory.file("a.raw");
    auto const qcow2 = directory.file("b.qcow2");
    make_chain(raw, qcow2);
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program, {"-blockdev",
                            "driver=qcow2,node-name=q,file.driver=file,file.filename=" + qcow2});
        auto& client = qemu.client();
        auto const chain = get(qemu.run(qmp::query_backing_chain(client, "q", soon())));
        REQUIRE(chain.size() == 2);
        CHECK(chain[0].file_name == qcow2);
        CHECK(chain[0].format == "qcow2");
        CHECK(chain[0].cluster_bytes == 65536);
        CHECK(chain[0].compat == "1.1");
        CHECK(chain[0].compression == "zlib");
        CHECK(chain[0].refcount_bits == 16);
        CHECK_FALSE(chain[0].extended_l2);
        CHECK(chain[1].file_name == raw);
        CHECK(chain[1].format == "raw");
        CHECK(chain[1].virtual_bytes == 8 << 20);
        CHECK_FALSE(qemu.run(qmp::query_backing_chain(client, "none", soon())).has_value());
    }
}

TEST_CASE("disks are reported as they are", "[qmp][qemu]") {
    Directory const directory;
    auto const raw = directory.file("a,1.raw");
    auto const qcow2 = directory.file("b.qcow2");
    make_chain(raw, qcow2);

    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program,
                  {"-drive",
                   "file=" + directory.file("a,,1.raw") + ",format=raw,if=none,id=d0,readonly=on",
                   "-device", "virtio-blk-pci,drive=d0,id=v0", "-object", "iothread,id=t0",
                   "-blockdev", "driver=qcow2,node-name=q,file.driver=file,file.filename=" + qcow2,
                   "-device", "virtio-blk-pci,drive=q,id=v1,iothread=t0", "-device",
                   "virtio-scsi-pci,id=s0,iothread=t0", "-device", "scsi-cd,id=cd,bus=s0.0"});
        auto& client = qemu.client();
        auto const disks = get(qemu.run(qmp::query_block(client, soon())));
        auto const find = [&](auto const& wanted) {
            auto const disk = std::ranges::find_if(disks, wanted);
            REQUIRE(disk != disks.end());
            return *disk;
        };
        auto const d0 = find([](auto const& disk) { return disk.device == "d0"; });
        CHECK(d0.inserted);
        CHECK(d0.file_name == raw);
        CHECK(d0.format == "raw");
        CHECK(d0.virtual_bytes == 8 << 20);
        CHECK(d0.read_only);
        CHECK(d0.backing_depth == 0);
        CHECK_FALSE(d0.throttled);
        auto const q = find([](auto const& disk) { return disk.node_name == "q"; });
        CHECK(q.format == "qcow2");
        CHECK(q.file_name == qcow2);
        CHECK(q.backing_depth == 1);
        CHECK(q.backing_file == raw);
        CHECK(q.cluster_bytes == 65536);
        auto const cd = find([](auto const& disk) { return disk.qdev == "cd"; });
        CHECK(cd.removable);
        CHECK_FALSE(cd.inserted);

        CHECK(get(qemu.run(qmp::iothread_of(client, d0, soon()))).empty());
        CHECK(get(qemu.run(qmp::iothread_of(client, q, soon()))) == "/objects/t0");
        CHECK(get(qemu.run(qmp::iothread_of(client, cd, soon()))) == "/objects/t0");

        auto const limits =
            core::Json::object({{"bps_wr", 1 << 20}, {"bps_wr_max", 1 << 21}, {"iops", 100}});
        must(qemu.run(qmp::block_set_io_throttle(client, q.qdev, limits, soon())));
        auto const throttled = get(qemu.run(qmp::query_block(client, soon())));
        CHECK(std::ranges::any_of(throttled, [](auto const& disk) { return disk.throttled; }));
        auto const told = std::ranges::find(throttled, q.qdev, &qmp::BlockDevice::qdev)->limits;
        CHECK(told["bps_wr"].integer_or(0) == 1 << 20);
        CHECK(told["bps_wr_max"].integer_or(0) == 1 << 21);
        CHECK(told["iops"].integer_or(0) == 100);
        // The values that were read can be set again.
        must(qemu.run(qmp::block_set_io_throttle(client, q.qdev, told, soon())));
        auto const stats = get(qemu.run(qmp::query_blockstats(client, soon())));
        CHECK(std::ranges::any_of(stats, [&](auto const& one) { return one.qdev == q.qdev; }));
        must(qemu.run(qmp::block_set_io_throttle(client, q.qdev, {}, soon())));
        auto const lifted = get(qemu.run(qmp::query_block(client, soon())));
        CHECK(std::ranges::none_of(lifted, [](auto const& disk) { return disk.throttled; }));
    }
}

TEST_CASE("bitmaps and transactions", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto& client = qemu.client();
        auto const path = image(qemu, "disk.raw", 4 << 20);
        add_disk(qemu, path);
        using namespace qmp::action;
        must(qemu.run(qmp::block_dirty_bitmap_add(client, {"disk", "b0", 4096}, soon())));
        must(qemu.run(qmp::transaction(client,
                                       {block_dirty_bitmap_add({"disk", "b1", 4096}),
                                        block_dirty_bitmap_add({"disk", "all", 4096, true}),
                                        block_dirty_bitmap_merge("disk", "all", {{"disk", "b0"}}),
                                        block_dirty_bitmap_disable("disk", "b0")},
                                       soon())));
        // All or nothing: the second action is impossible, so the first is not done.
        auto const failed = qemu.run(qmp::transaction(
            client,
            {block_dirty_bitmap_enable("disk", "b0"), block_dirty_bitmap_clear("disk", "none")},
            soon()));
        REQUIRE_FALSE(failed);
        CHECK(failed.error().what.find("'none' not found") != std::string::npos);
        auto const node = disk_node(qemu);
        CHECK(node.file_name == path);
        CHECK(node.virtual_bytes == 4 << 20);
        CHECK_FALSE(bitmap_of(node, "b0").recording);
        CHECK(bitmap_of(node, "b1").recording);
        CHECK(bitmap_of(node, "b1").granularity_bytes == 4096);
        CHECK(bitmap_of(node, "b1").dirty_bytes == 0);

        must(qemu.run(qmp::block_dirty_bitmap_enable(client, "disk", "b0", soon())));
        must(qemu.run(qmp::block_dirty_bitmap_disable(client, "disk", "b1", soon())));
        must(qemu.run(
            qmp::block_dirty_bitmap_merge(client, "disk", "all", {{"disk", "b1"}}, soon())));
        must(qemu.run(qmp::block_dirty_bitmap_clear(client, "disk", "all", soon())));
        CHECK(bitmap_of(disk_node(qemu), "b0").recording);
        CHECK_FALSE(bitmap_of(disk_node(qemu), "b1").recording);
        must(qemu.run(qmp::transaction(
            client,
            {block_dirty_bitmap_disable("disk", "b0"), block_dirty_bitmap_remove("disk", "all")},
            soon())));
        for (auto const* name : {"b0", "b1"}) {
            must(qemu.run(qmp::block_dirty_bitmap_remove(client, "disk", name, soon())));
        }
        CHECK(disk_node(qemu).bitmaps.empty());
        must(qemu.run(qmp::blockdev_del(client, "disk", soon())));
    }
}

TEST_CASE("exports", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu qemu(program);
        auto& client = qemu.client();
        add_disk(qemu, image(qemu, "disk.raw", 4 << 20));
        must(qemu.run(qmp::block_dirty_bitmap_add(client, {"disk", "b1", 4096}, soon())));
        auto const address = qmp::unix_address(qemu.file("nbd.sock"));
        must(qemu.run(qmp::nbd_server_start(client, {address, "", 0}, soon())));
        qmp::NbdExport wanted{"e0", "disk", "disk-0"};
        wanted.bitmaps = {{"disk", "b1"}};  // an enabled bitmap, in the form that QEMU takes
        must(qemu.run(qmp::block_export_add(client, wanted, soon())));
        CHECK(bitmap_of(disk_node(qemu), "b1").busy);
        auto const exports = get(qemu.run(qmp::query_block_exports(client, soon())));
        REQUIRE(exports.size() == 1);
        CHECK(exports[0].id == "e0");
        CHECK(exports[0].type == "nbd");
        CHECK(exports[0].node_name == "disk");
        CHECK_FALSE(exports[0].shutting_down);
        auto const twice = qemu.run(qmp::nbd_server_start(client, {address, "", 0}, soon()));
        REQUIRE_FALSE(twice);
        CHECK(twice.error().what.find("NBD server already running") != std::string::npos);

        auto events = client.subscribe({"BLOCK_EXPORT_DELETED"});
        must(qemu.run(qmp::block_export_del(client, "e0", qmp::ExportRemoval::hard, soon())));
        CHECK(get(qemu.run(events.next(soon()))).data["id"].text_or("") == "e0");
        must(qemu.run(qmp::nbd_server_stop(client, soon())));
        CHECK_FALSE(bitmap_of(disk_node(qemu), "b1").busy);
    }
}

TEST_CASE("a migration from one QEMU to another", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu source(program);
        qmp::Mapping mapping;
        mapping.machine_type = get(source.run(qmp::machine_type(source.client(), soon())));
        mapping.qmp_fd = qmp::qmp_fd_in_qemu;
        Qemu target(
            get(get(qmp::CommandLine::parse(Qemu::words(program))).for_destination(mapping)));
        CHECK(get(target.run(qmp::query_status(target.client(), soon()))).status == "inmigrate");
        std::vector<qmp::Capability> const capabilities{
            {"events", true}, {"return-path", true}, {"pause-before-switchover", true}};
        for (auto* qemu : {&source, &target}) {
            must(qemu->run(qmp::migrate_set_capabilities(qemu->client(), capabilities, soon())));
        }
        auto const set = get(source.run(qmp::query_migrate_capabilities(source.client(), soon())));
        CHECK(std::ranges::find(set, qmp::Capability{"return-path", true}) != set.end());
        must(source.run(qmp::migrate_set_parameters(
            source.client(), Json::object({{"downtime-limit", 77}}), soon())));
        CHECK(get(source.run(
                  qmp::query_migrate_parameters(source.client(), soon())))["downtime-limit"]
                  .integer_or(0) == 77);
        must(target.run(qmp::migrate_incoming(target.client(), "tcp:127.0.0.1:0", soon())));
        auto const address = get(target.run(qmp::incoming_address(target.client(), soon())));
        REQUIRE(address["type"].text_or("") == "inet");

        auto events = source.client().subscribe({"MIGRATION"});
        must(source.run(qmp::cont(source.client(), soon())));
        must(source.run(
            qmp::migrate(source.client(), "tcp:127.0.0.1:" + address["port"].text_or(""), soon())));
        get(source.run(next_named(events, "MIGRATION", "pre-switchover")));
        CHECK(get(source.run(qmp::query_migrate(source.client(), soon()))).status ==
              "pre-switchover");
        must(source.run(qmp::migrate_continue(source.client(), "pre-switchover", soon())));
        get(source.run(next_named(events, "MIGRATION", "completed")));
        auto const info = get(source.run(qmp::query_migrate(source.client(), soon())));
        CHECK(info.status == "completed");
        CHECK(info.ram_transferred_bytes > 0);
        CHECK(info.ram_total_bytes >= 64 << 20);
        // QEMU reports "completed" a moment before it enters postmigrate.
        CHECK(get(source.run(qmp::cancel_migration(source.client(), soon()))) == "completed");
        CHECK(get(source.run(qmp::query_status(source.client(), soon()))).status == "postmigrate");
    }
}

TEST_CASE("a migration that fails says why", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu source(program);
        auto& client = source.client();
        must(source.run(qmp::migrate_set_capabilities(client, {{"events", true}}, soon())));
        auto events = client.subscribe({"MIGRATION"});
        must(source.run(qmp::migrate(client, "unix:" + source.file("nobody.sock"), soon())));
        get(source.run(next_named(events, "MIGRATION", "failed")));
        auto const info = get(source.run(qmp::query_migrate(client, soon())));
        CHECK(info.status == "failed");
        CHECK(info.error.find("No such file") != std::string::npos);
        CHECK(get(source.run(qmp::cancel_migration(client, soon()))) == "failed");
    }
}

TEST_CASE("a migration is cancelled at any moment, and the guest runs on", "[qmp][qemu]") {
    for (auto const& program : qemus()) {
        INFO(program);
        Qemu source(program);
        auto& client = source.client();
        must(source.run(qmp::migrate_set_capabilities(
            client, {{"events", true}, {"pause-before-switchover", true}}, soon())));
        must(source.run(qmp::cont(client, soon())));
        CHECK(get(source.run(qmp::cancel_migration(client, soon()))) == "none");
        core::Fd const listener = get(core::listen_tcp("127.0.0.1", "0"));
        auto const port = std::to_string(get(core::local_port(listener.get())));
        constexpr int moments = 40;
        for (int moment = 0; moment < moments; ++moment) {
            INFO("cancelled after " << moment / 2 << " ms");
            auto const socket =
                get(source.run(core::connect_tcp(source.loop(), "127.0.0.1", port, soon())));
            must(source.run(qmp::getfd(client, "ram", socket.get(), soon())));
            must(source.run(qmp::migrate(client, "fd:ram", soon())));
            // Any moment is valid: the test shows that none of them fails.
            must(source.run(core::sleep_for(source.loop(), moment * 500us)));
            // "failed": QEMU noticed the shutdown of its socket before the reason for it.
            auto const end = get(source.run(qmp::cancel_migration(client, soon())));
            CHECK((end == "cancelled" || end == "failed"));
            REQUIRE(get(source.run(qmp::query_status(client, soon()))).running);
        }
    }
}

}  // namespace qmp_commands_cases
