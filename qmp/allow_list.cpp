#include "qmp/allow_list.hpp"

#include <algorithm>
#include <array>

namespace qmp::allow_list {

namespace {

/// A kind of something, and words that belong to it; or why it is refused.
struct Entry {
    std::string_view name;
    std::string_view words;
};

template <std::size_t size>
std::optional<std::string_view> find_words(std::array<Entry, size> const& table,
                                           std::string_view name) {
    auto const found = std::ranges::find(table, name, &Entry::name);
    if (found == table.end()) return std::nullopt;
    return found->words;
}

constexpr std::string_view harmless_options =
    "S append async-teardown cpu enable-kvm full-screen mem-prealloc no-acpi no-fd-bootchk no-hpet "
    "no-reboot no-shutdown no-user-config nodefaults nographic only-migratable portrait prom-env "
    "usb win2k-hack";

constexpr std::string_view word_options = "echr g k rotate seed uuid vga watchdog-action";

constexpr auto option_keys = std::to_array<Entry>({
    {"accel",
     "accel dirty-ring-size eager-split-size honor-guest-pat kernel-irqchip kvm-shadow-mem "
     "notify-vmexit notify-window one-insn-per-tb split-wx tb-size thread"},
    {"acpitable", "asl_compiler_id asl_compiler_rev oem_id oem_rev oem_table_id rev sig"},
    {"action", "panic reboot shutdown watchdog"},
    {"audio", "driver id model"},
    {"audiodev",
     "driver id in.buffer-length in.channels in.fixed-settings in.format in.frequency "
     "in.mixing-engine in.voices out.buffer-length out.channels out.fixed-settings out.format "
     "out.frequency out.mixing-engine out.voices timer-period"},
    {"boot", "menu once order reboot-timeout splash-time strict"},
    {"compat", "deprecated-input deprecated-output unstable-input unstable-output"},
    {"display", "type"},
    {"fw_cfg", "gen_id name string"},
    {"icount", "align shift sleep"},
    {"m", "maxmem size slots"},
    {"mon", "chardev id mode pretty"},
    {"msg", "guest-name timestamp"},
    {"name", "debug-threads guest process"},
    {"numa",
     "associativity bandwidth book-id cluster-id core-id cpus data-type die-id drawer-id dst "
     "hierarchy initiator latency level line mem memdev module-id node-id nodeid policy size "
     "socket-id src target thread-id type val"},
    {"option-rom", "bootindex"},
    {"overcommit", "cpu-pm mem-lock"},
    {"rtc", "base clock driftfix"},
    {"run-with", "async-teardown"},
    {"sandbox", "elevateprivileges enable obsolete resourcecontrol spawn"},
    {"smbios",
     "asset bank bios-characteristics connector_type current-speed date external_reference family "
     "instance internal_reference kind loc_pfx location manufacturer max-speed part pcidev "
     "port_type processor-family processor-id product release serial sku slot_data_bus_width "
     "slot_designation slot_id slot_length slot_type sock_pfx speed type uefi uuid value vendor "
     "version"},
    {"smp", "books clusters cores cpus dies drawers maxcpus modules sockets threads"},
    {"spice",
     "addr agent-mouse disable-agent-file-xfer disable-copy-paste disable-ticketing id "
     "image-compression ipv4 ipv6 jpeg-wan-compression password password-secret "
     "plaintext-channel playback-compression port sasl seamless-migration streaming-video "
     "tls-channel tls-ciphers tls-port unix video-codecs zlib-glz-wan-compression"},
    {"vnc",
     "address audiodev display head id ipv4 ipv6 key-delay-ms lossy non-adaptive password "
     "password-secret power-control sasl share tls-creds to websocket"},
});

constexpr std::string_view runs = "it runs a program";
constexpr std::string_view debugs = "it gives control over the guest to who connects";
constexpr std::string_view user = "it changes the user or the root directory of QEMU";
constexpr std::string_view shares = "it gives the guest a directory of the destination";
constexpr std::string_view hides = "it hides options in a file";
constexpr std::string_view writes = "it writes to files of the destination";

constexpr auto reasons = std::to_array<Entry>({
    {"add-fd", "it names a descriptor of another process"},
    {"chroot", user},
    {"daemonize", "the destination's sidecar follows QEMU by itself"},
    {"dump-vmstate", writes},
    {"fsdev", shares},
    {"gdb", debugs},
    {"iscsi", "it connects to another host"},
    {"jitdump", writes},
    {"loadvm", "it starts another state than the guest's"},
    {"perfmap", writes},
    {"plugin", runs},
    {"preconfig", "the guest has run already"},
    {"qtest", debugs},
    {"qtest-log", writes},
    {"readconfig", hides},
    {"s", debugs},
    {"semihosting", "it lets the guest open files of the destination"},
    {"semihosting-config", "it lets the guest open files of the destination"},
    {"set", "it changes other options unseen"},
    {"snapshot", "it keeps the guest's writes in a temporary file"},
    {"trace", writes},
    {"virtfs", shares},
    {"writeconfig", writes},
    {"xen-attach", "it needs Xen"},
    {"xen-domid", "it needs Xen"},
    {"xen-domid-restrict", "it needs Xen"},
});

// After "virtio-" and before "-pci", "-device", "-ccw", "-pci-transitional" and the like.
constexpr std::string_view virtio_devices =
    "balloon blk crypto gpu iommu keyboard mem mouse multitouch net pmem rng scsi serial sound "
    "tablet vga";

constexpr std::string_view devices =
    "AC97 ES1370 ac97 es1370 e1000-82540em VGA adlib ahci am53c974 amd-iommu ati-vga bochs-display "
    "ccid-card-passthru "
    "cirrus-vga cs4231a dc390 e1000 e1000-82544gc e1000-82545em e1000e floppy gus hda-duplex "
    "hda-micro hda-output hv-balloon i6300esb i82550 i82551 i82557a i82557b i82557c i82558a "
    "i82558b i82559a i82559b i82559c i82559er i82562 i82801 i82801b11-bridge ib700 ich9-ahci "
    "ich9-intel-hda ich9-usb-ehci1 ich9-usb-ehci2 ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 "
    "ich9-usb-uhci4 ich9-usb-uhci5 ich9-usb-uhci6 ide-cd ide-cf ide-hd igb intel-hda intel-iommu "
    "ioh3420 isa-applesmc isa-cirrus-vga isa-debugcon isa-fdc isa-ide isa-parallel isa-serial "
    "isa-vga ivshmem-plain lsi lsi53c810 lsi53c895a megasas megasas-gen2 mptsas1068 ne2k_isa "
    "ne2k_pci nec-usb-xhci nvdimm nvme nvme-ns nvme-subsys pc-dimm pci-bridge pci-ohci pci-serial "
    "pci-serial-2x pci-serial-4x pcie-pci-bridge pcie-root-port pcnet piix3-ide piix3-usb-uhci "
    "piix4-ide piix4-usb-uhci pvpanic pvpanic-pci pvscsi pxb pxb-pcie qemu-xhci qxl qxl-vga ramfb "
    "rtl8139 sb16 scsi-cd scsi-hd sd-card sdhci-pci secondary-vga tpm-crb tpm-tis tulip usb-audio "
    "usb-bot usb-ccid "
    "usb-ehci usb-hub usb-kbd usb-mouse usb-net usb-redir usb-serial usb-storage usb-tablet "
    "usb-uas usb-wacom-tablet virtconsole virtserialport virtio-gpu-pci virtio-vga vmbus-bridge "
    "vmcoreinfo vmgenid vmmouse vmware-svga vmxnet3 vt82c686b-usb-uhci x3130-upstream "
    "xio3130-downstream";

constexpr std::string_view chipset =
    "ICH9-LPC ICH9-SMB PIIX PIIX3 PIIX4_PM apic apic-common cfi.pflash01 fw_cfg fw_cfg_io hpet "
    "i440FX i440FX-pcihost i8042 ich9-ahci isa-pit kvm-apic kvm-ioapic kvm-pit kvmclock "
    "mc146818rtc mch nvdimm pci-device pcie-root-port-base pcspk-audio port92 q35-pcihost "
    "usb-device virtio-device virtio-pci";

// Of devices, by what they are: all of them, PCI, virtio, disks, network cards, displays, USB,
// sound, serial lines, NVMe, memory, processors, chipset, TPM.
constexpr auto device_keys = std::to_array<std::string_view>({
    "acpi-index addr bus command_serr_enable driver failover_pair_id id multifunction rombar "
    "romsize x-max-bounce-buffer-size x-pci-express-writeable-slt-bug x-pcie-ari-nextfn-1 "
    "x-pcie-err-unc-mask x-pcie-ext-tag x-pcie-extcap-init x-pcie-lnksta-dllla "
    "x-pcie-pm-no-soft-reset",
    "aer aer_log_max bus-reserve bus_nr busnr bypass_iommu chassis chassis_nr disable-acs "
    "enable-native-hotplug fast-plug-unplug hotplug io-reserve mem-reserve msi msix "
    "native-hotplug numa_node port power_controller_present pref32-reserve pref64-reserve shpc "
    "slot x-do-not-expose-native-hotplug-cap x-migrate-msix x-native-hotplug x-speed x-width",
    "any_layout ats class disable-legacy disable-modern event_idx in_order indirect_desc "
    "ioeventfd iommu_platform iothread iothread-vq-mapping.iothread iothread-vq-mapping.vqs "
    "migrate-extra modern-pio-notify notify_on_empty packed page-per-vq queue_reset "
    "use-disabled-flag use-started vectors virtio-pci-bus-master-bug-migration x-ats-page-aligned "
    "x-disable-legacy-check x-disable-pcie x-ignore-backend-features x-pcie-deverr-init "
    "x-pcie-flr-init x-pcie-lnkctl-init x-pcie-pm-init",
    "account-failed account-invalid backend_defaults bios-chs-trans bootindex bootindexA "
    "bootindexB capareg channel check_media_rate cmd_per_lun config-wce cyls device_id discard "
    "discard_granularity dpofua drive drive-type driveA driveB endianness fallback fdtypeA "
    "fdtypeB hba_serial heads iobase2 lcyls lheads loadparm logical_block_size lsecs lun "
    "max-discard-sectors max-write-zeroes-sectors max_cmds max_io_size max_sectors max_sge "
    "max_unmap_size maxcurr migrate-emulated-scsi-request min_io_size model num-queues num_queues "
    "opt_io_size param_change physical_block_size port_index port_wwn product queue-size "
    "quirk_mode_page_apple_vendor quirk_mode_page_truncated quirk_mode_page_vendor_specific_apple "
    "quirk_mode_sense_rom_use_dbd removable report-discard-granularity request-merging rerror "
    "rotation_rate sas_address scsi scsi-id scsi_version sd-spec-version secs seg-max-adjust "
    "seg_max_adjust serial share-rw spec_version spi stats-intervals uhs unit use_jbod use_msg "
    "use_msi vendor ver virtqueue_size werror win2k-install-hack worker_per_virtqueue write-cache "
    "write-zeroes wwn x-enable-wce-if-config-wce x-old-pci-configuration",
    "autonegotiation csum ctrl_guest_offloads ctrl_mac_addr ctrl_rx ctrl_rx_extra ctrl_vlan "
    "ctrl_vq disable_vnet_hdr duplex extra_mac_registers failover gso guest_announce guest_csum "
    "guest_ecn guest_rsc_ext guest_tso4 guest_tso6 guest_ufo guest_uso4 guest_uso6 hash host_ecn "
    "host_mtu host_tso4 host_tso6 host_ufo host_uso init-vet mac migrate-timadj migrate_tso_props "
    "mitigation mq mrg_rxbuf netdev rsc_interval rss rx_queue_size speed status subsys subsys_ven "
    "tx tx_queue_size x-mtu-bypass-backend x-old-msi-offsets x-txburst x-txtimer",
    "big-endian-framebuffer blitter display edid global-vmstate guest_hwcursor head max_outputs "
    "mmio qemu-extended-regs ram_size ram_size_mb refresh_rate revision stats surfaces "
    "use-legacy-x86-rom vgamem vgamem_mb vram64_size_mb vram_size vram_size_mb wheel-axis "
    "x-device-id x-migrate x-pixman x-scanout-vmstate-version xmax xres ymax yres",
    "always-plugged attached bandwidth buffer commandlog conditional-intr-mapping filter "
    "firstport force-pcie-endcap full-path intrs masterbus maxframes msos-desc multi num-ports p2 "
    "p3 port-power ports slots streams superspeed-ports-first suppress-remote-wake usb_version",
    "audiodev cad chmaps freq jacks mixer old_msi_addr use-timer",
    "baudbase chardev chardev1 chardev2 chardev3 chardev4 dma dma16 emergency-write index iobase "
    "irq max_ports name nr osk prog_if readback wakeup",
    "aer_max_queued aerl atomic.awun atomic.awupf atomic.dn cmb_size_mb ctratt.mem dbcs detached "
    "eui64 eui64-default fdp fdp.nrg fdp.nruh fdp.ruhs fdp.runs ioeventfd legacy-cmb max_ioqpairs "
    "mcl mdts mqes ms mset msix-exclusive-bar msix_qsize msrc mssrl nguid nqn nsid ocp pi pif pil "
    "pmrdev shared smart_critical_warning sriov_max_vfs sriov_max_vi_per_vf sriov_max_vq_per_vf "
    "sriov_vi_flexible sriov_vq_flexible subsys use-intel-id uuid vsl zoned zoned.auto_transition "
    "zoned.cross_read zoned.descr_ext_size zoned.max_active zoned.max_open zoned.numzrwa "
    "zoned.zasl zoned.zone_capacity zoned.zone_size zoned.zrwafg zoned.zrwas",
    "block-size boot-bypass cryptodev deflate-on-oom dynamic-memslots early-migration "
    "free-page-hint free-page-reporting granule guest-stats-polling-interval guid instanceid "
    "label-size master max-bytes memaddr memdev node page-poison period prealloc primary-bus "
    "qemu-4-0-config-size requested-size rng size status-report unarmed unplugged-inaccessible "
    "x-early-migration",
    "apic-id aw-bits caching-mode core-id device-iotlb die-id dma-drain dma-remap dma-translation "
    "eim events fs1gp intremap ioport module-id node-id pt snoop-control socket-id stale-tm "
    "thread-id version x-buggy-eim x-flts x-pasid-mode x-scalable-mode xtsup",
    "acpi-pci-hotplug-with-bridge-support acpi-root-pci-hotplug disable_s3 disable_s4 dma_enabled "
    "enable_tco extended-tseg-mbytes file_slots lost_tick_policy memory-hotplug-support noreboot "
    "pci-hole64-size s4_val secure short_root_bus smm-compat smm-enabled timers use_acpi_hotplug "
    "x-keep-pci-slot-hpc x-smi-broadcast x-smi-cpu-hotplug x-smi-cpu-hotunplug "
    "x-smi-negotiated-features x-smi-periodic-timer x-smi-swsmi-timer",
    "ppi tpmdev",
});

constexpr std::string_view nic_models = "virtio virtio-net-device usb-net sungem";

constexpr std::string_view memory =
    "dump host-nodes merge policy prealloc prealloc-context prealloc-threads reserve share size "
    "x-use-canonical-path-for-ramblock-id";
constexpr std::string_view memfd =
    "dump host-nodes hugetlb hugetlbsize merge policy prealloc prealloc-context prealloc-threads "
    "reserve seal share size x-use-canonical-path-for-ramblock-id";
constexpr std::string_view memory_file =
    "align discard-data dump host-nodes merge offset pmem policy prealloc prealloc-context "
    "prealloc-threads readonly reserve rom share size x-use-canonical-path-for-ramblock-id";

// Files (file, filename, dir, mem-path) are checked apart.
constexpr auto objects = std::to_array<Entry>({
    {"can-bus", ""},
    {"cryptodev-backend-builtin", "queues throttle-bps throttle-ops"},
    {"iothread", "aio-max-batch poll-grow poll-max-ns poll-shrink thread-pool-max thread-pool-min"},
    {"main-loop", "aio-max-batch thread-pool-max thread-pool-min"},
    {"memory-backend-file", memory_file},
    {"memory-backend-memfd", memfd},
    {"memory-backend-ram", memory},
    {"rng-builtin", ""},
    {"rng-egd", "chardev"},
    {"rng-random", ""},
    {"secret", "data format iv keyid"},
    {"thread-context", "cpu-affinity node-affinity"},
    {"throttle-group", ""},
    {"tls-creds-anon", "endpoint priority verify-peer"},
    {"tls-creds-psk", "endpoint priority username verify-peer"},
    {"tls-creds-x509", "endpoint passwordid priority sanity-check verify-peer"},
});

constexpr auto netdevs = std::to_array<Entry>({
    {"hubport", "hubid netdev"},
    {"none", ""},
    {"tap", "fd fds ifname poll-us queues sndbuf vhost vhostforce vnet_hdr"},
    {"user",
     "bootfile dhcpstart dns dnssearch dnssearch.str domainname host hostfwd hostfwd.str hostname "
     "ip ipv4 ipv6 ipv6-dns ipv6-host ipv6-net ipv6-prefix ipv6-prefixlen net restrict "
     "tftp-server-name"},
});

constexpr auto chardevs = std::to_array<Entry>({
    {"file", "append"},
    {"msmouse", ""},
    {"null", ""},
    {"pty", ""},
    {"qemu-vdagent", "clipboard mouse name"},
    {"ringbuf", "size"},
    {"socket", "abstract delay fd reconnect reconnect-ms server tight wait"},
    {"spiceport", "debug name"},
    {"spicevmc", "debug name"},
    {"stdio", "signal"},
    {"vc", "cols height rows width"},
});

constexpr std::string_view block_drivers =
    "compress copy-on-read file host_cdrom host_device luks null-aio null-co preallocate qcow2 raw "
    "throttle";

// "file" and "backing" are checked apart: they name nodes, or begin the keys of a child.
constexpr std::string_view block_keys =
    "active aio aio-max-batch auto-read-only bottom cache-clean-interval cache-size cache.direct "
    "cache.no-flush cache.writeback detect-zeroes discard discard-no-unref driver drop-cache "
    "encrypt.format encrypt.key-secret force-share key-secret l2-cache-entry-size l2-cache-size "
    "latency-ns lazy-refcounts locking node-name offset overlap-check overlap-check.template "
    "pass-discard-other pass-discard-request pass-discard-snapshot prealloc-align prealloc-size "
    "read-only read-zeroes refcount-cache-size size throttle-group";

constexpr std::string_view drive_keys =
    "addr bps bps_max bps_rd bps_rd_max bps_wr bps_wr_max bus cache copy-on-read format group id "
    "if index iops iops_max iops_rd iops_rd_max iops_size iops_wr iops_wr_max media readonly "
    "rerror serial stats-account-failed stats-account-invalid throttling.group unit werror";

constexpr std::string_view machine_keys =
    "accel acpi append boot.menu boot.once boot.order boot.reboot-timeout boot.splash-time "
    "boot.strict bus-lock-ratelimit cxl default-bus-bypass-iommu default_bus_bypass_iommu "
    "dump-guest-core fd-bootchk graphics hmat hpet i8042 its kernel-irqchip kvm-type "
    "max-fw-size max-ram-below-4g mem-merge memory-backend memory.max-size memory.size "
    "memory.slots nvdimm nvdimm-persistence pcspk-audiodev pflash0 pflash1 pic pit rtc sata "
    "secure smbios-entry-point-type smbus smm smp.clusters smp.cores smp.cpus smp.dies "
    "smp.maxcpus smp.modules smp.sockets smp.threads suppress-vmdesc type usb vmport x-oem-id "
    "x-oem-table-id";

constexpr std::string_view accelerators = "hvf kvm nvmm tcg whpx";

constexpr std::string_view throttle_keys =
    "bps-read bps-read-max bps-read-max-length bps-total bps-total-max bps-total-max-length "
    "bps-write bps-write-max bps-write-max-length iops-read iops-read-max iops-read-max-length "
    "iops-size iops-total iops-total-max iops-total-max-length iops-write iops-write-max "
    "iops-write-max-length";

bool is_virtio_device(std::string_view driver) {
    constexpr std::string_view prefix = "virtio-";
    if (!driver.starts_with(prefix)) return false;
    driver.remove_prefix(prefix.size());
    for (std::string_view const suffix :
         {"-pci-non-transitional", "-pci-transitional", "-pci", "-device", "-ccw"}) {
        if (!driver.ends_with(suffix)) continue;
        driver.remove_suffix(suffix.size());
        break;
    }
    return has_word(virtio_devices, driver);
}

}  // namespace

bool has_word(std::string_view list, std::string_view word) {
    if (word.empty() || word.find(' ') != std::string_view::npos) return false;
    while (!list.empty()) {
        auto const end = std::min(list.find(' '), list.size());
        if (list.substr(0, end) == word) return true;
        list.remove_prefix(std::min(end + 1, list.size()));
    }
    return false;
}

bool is_harmless_option(std::string_view kind) { return has_word(harmless_options, kind); }
bool is_word_option(std::string_view kind) { return has_word(word_options, kind); }
std::optional<std::string_view> keys_of_option(std::string_view kind) {
    return find_words(option_keys, kind);
}
std::string_view reason_against_option(std::string_view kind) {
    return find_words(reasons, kind).value_or("");
}

bool is_device(std::string_view driver) {
    bool const processor = driver.ends_with("-cpu");  // "host-x86_64-cpu"
    return is_virtio_device(driver) || has_word(devices, driver) || processor;
}
bool is_device_key(std::string_view key) {
    return std::ranges::any_of(device_keys, [&](auto list) { return has_word(list, key); });
}
bool is_chipset(std::string_view driver) { return has_word(chipset, driver); }
bool is_nic_model(std::string_view model) { return has_word(nic_models, model); }

std::optional<std::string_view> keys_of_object(std::string_view type) {
    return find_words(objects, type);
}
bool is_throttle_key(std::string_view key) {
    for (std::string_view const prefix : {"limits.", "x-", "throttling."}) {
        if (key.starts_with(prefix)) return has_word(throttle_keys, key.substr(prefix.size()));
    }
    return false;
}
std::optional<std::string_view> keys_of_netdev(std::string_view type) {
    return find_words(netdevs, type);
}
std::optional<std::string_view> keys_of_chardev(std::string_view backend) {
    return find_words(chardevs, backend);
}

bool is_block_driver(std::string_view driver) { return has_word(block_drivers, driver); }
bool is_block_key(std::string_view key) { return has_word(block_keys, key); }
bool is_drive_key(std::string_view key) {
    return has_word(drive_keys, key) || (key.starts_with("throttling.") && is_throttle_key(key));
}

bool is_machine_key(std::string_view key) { return has_word(machine_keys, key); }
bool is_accelerator(std::string_view name) { return has_word(accelerators, name); }

}  // namespace qmp::allow_list
