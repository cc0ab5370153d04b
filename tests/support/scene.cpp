#include "tests/support/scene.hpp"

#include <signal.h>
#include <sys/stat.h>

#include <algorithm>

#include "tests/support/swtpm.hpp"

namespace lab {

using core::Json;

namespace {

constexpr int serve_port = 4790;
constexpr Milliseconds ready_limit = 20s;
constexpr Milliseconds hook_limit = 120s;
constexpr Milliseconds hook_look_interval = 100ms;

Argv sidecar_line(Argv const& arguments) {
    Argv argv{program("sidecar")};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    if (std::getenv("LAB_VERBOSE")) argv.insert(argv.begin() + 2, "--verbose");
    return argv;
}

// The last line of stdout that is a JSON object: the report of `migrate --json`.
Json last_object(std::string const& text) {
    auto const begin = text.rfind("{\"");
    auto const line_start = text.rfind('\n', text.find_last_not_of('\n'));
    auto const from = line_start == std::string::npos ? 0 : line_start + 1;
    if (begin == std::string::npos) return {};
    auto parsed = Json::parse(text.substr(from));
    if (!parsed) parsed = Json::parse(text);
    return parsed ? *parsed : Json();
}

}  // namespace

std::string Migration::text() const {
    return fmt::format("migrate ended with {}; stderr: {}; report: {}", exit_status, err,
                       report.dump());
}

Scene::Scene(SceneOptions options)
    : options_(std::move(options)),
      lab_(options_.link_mbit, options_.hosts_ipv6),
      guest_(lab_, options_.guest) {
    if (options_.certificates) {
        authority_.emplace(lab_.directory() / "authority");
        for (Host const* host : {&a(), &b()}) authority_->issue(tls_directory(*host), *host);
    } else {
        make_key();
    }
    if (options_.furnish) options_.furnish(lab_);
    start_serve(a(), options_.serve_environment);
    start_serve(b(), options_.serve_environment);
    bare_a_ = traces_of(a());
    bare_b_ = traces_of(b());
    guest_.make_disks(a());
    if (options_.start_guest) run_guest(a(), options_.run_environment);
}

Scene::~Scene() = default;

Traces const& Scene::bare(Host const& host) const { return &host == &a() ? bare_a_ : bare_b_; }

void Scene::make_key() const {
    write_file(key_file(),
               "lab:8a1f0c5de4b7296370d1c9ab52e8f3460a9d7be15c24f8036e7da1b5940c3f62\n");
    chmod(key_file().c_str(), 0600);
}

Argv Scene::credentials(Host const& host) const {
    if (options_.certificates) return {"--tls-dir", tls_directory(host)};
    return {"--key", key_file()};
}

Argv Scene::serve_line(Host const& host, Argv const& more) const {
    Host const& other = lab_.other(host);
    Argv argv = sidecar_line({"serve", "--map-path",
                              other.directory.string() + "=" + host.directory.string(),
                              "--map-path", other.logs.string() + "=" + host.logs.string()});
    for (auto const& word : credentials(host)) argv.push_back(word);
    auto const allowed = allow_guests(more);
    argv.insert(argv.end(), allowed.begin(), allowed.end());
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
}

void Scene::start_serve(Host const& host, std::vector<std::string> const& environment,
                        Argv const& more) {
    start_serve_line(host, serve_line(host, more), environment);
}

void Scene::start_serve_on_small_disk(Host const& host, int mib) {
    // Mounted in that process's mount namespace, so that it needs no unmount.
    Argv argv{"sh", "-c",
              "mount -t tmpfs -o size=" + std::to_string(mib) + "m tmpfs " + host.images.string() +
                  " && exec \"$@\"",
              "sh"};
    auto const serve = serve_line(host, {});
    argv.insert(argv.end(), serve.begin(), serve.end());
    start_serve_line(host, std::move(argv), {});
}

void Scene::start_serve_line(Host const& host, Argv argv,
                             std::vector<std::string> const& environment) {
    auto& daemon = &host == &a() ? serve_a_ : serve_b_;
    daemon.emplace("serve", std::move(argv), host.place(environment), host.logs);
    wait_until("`sidecar serve` on host " + host.name + " to listen", ready_limit, [&] {
        if (auto const ended = daemon->wait(0ms)) throw Failure("serve ended: " + daemon->err());
        return accepts(host.netns, host.ip6.empty() ? host.ip4 : host.ip6, serve_port);
    });
    // A restarted `serve` has another pid, but still belongs to the bare host.
    auto& processes = (&host == &a() ? bare_a_ : bare_b_).processes;
    auto const is_serve = [](std::string const& seen) { return seen.ends_with(" sidecar serve"); };
    std::erase_if(processes, is_serve);
    for (auto const& seen : traces_of(host).processes) {
        if (is_serve(seen)) processes.insert(seen);
    }
}

void Scene::end_serve(Host const& host) { (&host == &a() ? serve_a_ : serve_b_)->end(); }

void Scene::kill_serve(Host const& host) { (&host == &a() ? serve_a_ : serve_b_)->kill(); }

void Scene::start_run(Host const& host, Argv const& qemu,
                      std::vector<std::string> const& environment, Argv const& more) {
    Argv argv = sidecar_line({"run", guest_.name(), "--bridge", bridge});
    argv.insert(argv.end(), more.begin(), more.end());
    argv.emplace_back("--");
    argv.insert(argv.end(), qemu.begin(), qemu.end());
    guest_sidecar_.emplace("run", std::move(argv), host.place(environment), host.logs);
}

void Scene::run_guest(Host const& host, std::vector<std::string> const& environment,
                      Argv const& more) {
    if (!guest_.options().tpm.empty()) {
        swtpm_.emplace(
            start_swtpm("swtpm", host.directory / "tpm", guest_.tpm_socket(host), host.place()));
    }
    start_run(host, guest_.command_line(host), environment, more);
    if (guest_.options().plugged) guest_.plug(host);
    wait_until("the guest's first answer", Guest::boot_limit, [&] {
        if (auto const ended = guest_sidecar_->wait(0ms)) {
            auto const serial = read_file(guest_.serial(host));
            throw Failure(fmt::format(
                "`sidecar run` ended with {}: {}; the guest's last words: {}", *ended,
                guest_sidecar_->err(),
                serial.substr(serial.size() - std::min<std::size_t>(serial.size(), 500))));
        }
        return guest_.answers();
    });
    // While a guest boots and keeps its processor busy, QEMU answers its sidecar late.
    wait_until("`sidecar run` to answer", ready_limit,
               [&] { return sidecar(host, {"status", guest_.name()}).exit_status == 0; });
    guest_.learn();
}

void Scene::attach_guest(Host const& host, Argv const& more,
                         std::vector<std::string> const& environment) {
    Argv argv = sidecar_line({"attach", guest_.name()});
    argv.insert(argv.end(), more.begin(), more.end());
    guest_sidecar_.emplace("attach", std::move(argv), host.place(environment), host.logs);
    wait_until("`sidecar attach` to answer", ready_limit, [&] {
        if (auto const ended = guest_sidecar_->wait(0ms)) {
            throw Failure(fmt::format("`attach` ended with {}: {}", *ended, guest_sidecar_->err()));
        }
        // Asks for an answer, not only a connection: the io_uring of a killed sidecar keeps its
        // listener for a while.
        return sidecar(host, {"status", guest_.name()}).exit_status == 0;
    });
    // The sidecar learns the guest's addresses from the guest's traffic.
    wait_until("the guest's answers", Guest::answer_limit, [&] { return guest_.answers(); });
}

Daemon Scene::start_migration(Host const& from, Argv const& more) {
    Host const& to = lab_.other(from);
    Argv argv = sidecar_line(
        {"migrate", "--with-storage", guest_.name(), to.address(), "--progress=none", "--json"});
    for (auto const& word : credentials(from)) argv.push_back(word);
    argv.insert(argv.end(), more.begin(), more.end());
    return Daemon("migrate-" + unique_suffix(), std::move(argv), from.place(), from.logs);
}

Daemon Scene::follow_migration(Host const& from) {
    return Daemon("resume-" + unique_suffix(),
                  sidecar_line({"migrate", "--resume", guest_.name(), "--progress=none", "--json"}),
                  from.place(), from.logs);
}

Migration Scene::finish(Daemon& migration) {
    auto const status = migration.wait(migration_limit);
    if (!status) {
        throw Failure(fmt::format("{} is not over after {} ms: {}", migration.name(),
                                  migration_limit.count(), migration.err()));
    }
    return {*status, last_object(migration.out()), migration.err()};
}

Migration Scene::finish_past_hooks(Daemon& migration) const {
    using std::chrono::steady_clock;
    auto const until = steady_clock::now() + migration_limit;
    auto next_look = steady_clock::now();
    while (!migration.wait(look_interval) && steady_clock::now() < until) {
        // A look reads all of /proc, so it is rare: the guests need the processors.
        if (steady_clock::now() < next_look) continue;
        for (Host const* host : {&a(), &b()}) {
            auto const seen = guest_sidecar(*host);
            if (seen && seen->state == 'T') signal_process(seen->pid, SIGCONT);
        }
        next_look = steady_clock::now() + hook_look_interval;
    }
    return finish(migration);
}

Migration Scene::migrate(Host const& from, Argv const& more) {
    auto migration = start_migration(from, more);
    return finish(migration);
}

Output Scene::sidecar(Host const& host, Argv const& arguments) const {
    return run(sidecar_line(arguments), host.place());
}

core::Json Scene::migration_on(Host const& host) const {
    auto const status = sidecar(host, {"status", guest_.name(), "--json"});
    auto const parsed = core::Json::parse(status.out);
    return parsed ? (*parsed)["migration"] : core::Json();
}

void Scene::wait_copied(Host const& host, double share) const {
    wait_until("the disks to be copied in part", migration_limit, [&] {
        auto const now = migration_on(host);
        auto const total = now["disks_total_bytes"].number_or(0);
        return total > 0 && now["disks_done_bytes"].number_or(0) >= share * total;
    });
}

std::optional<Seen> Scene::guest_sidecar(Host const& host) const {
    for (auto& seen : processes_in(host.netns)) {
        auto const& argv = seen.argv;
        if (argv.size() < 3 || fs::path(argv[0]).filename() != "sidecar") continue;
        auto const is = [&](char const* command) {
            return std::ranges::find(argv, command) != argv.end();
        };
        bool const ours = std::ranges::find(argv, guest_.name()) != argv.end();
        if (ours && (is("run") || is("attach") || is("incoming"))) return seen;
    }
    return {};
}

pid_t Scene::wait_stopped(Host const& host) const {
    pid_t stopped = -1;
    wait_until("the stop of the sidecar on host " + host.name, hook_limit, [&] {
        auto const seen = guest_sidecar(host);
        if (seen && seen->state == 'T') stopped = seen->pid;
        return stopped > 0;
    });
    return stopped;
}

void kill_process(pid_t pid) {
    auto process = core::Process::open(pid);
    if (!process) throw Failure(process.error().sentence());
    (void)process->signal(SIGKILL);
    wait_until("the end of a killed process", end_limit, [&] { return !process->running(); });
}

void signal_process(pid_t pid, int number) {
    auto process = core::Process::open(pid);
    if (!process) throw Failure(process.error().sentence());
    if (auto sent = process->signal(number); !sent) throw Failure(sent.error().sentence());
}

}  // namespace lab
