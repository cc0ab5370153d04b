// The expected content of a block, and the kind of error if the content differs.
// A block: magic, disk, number, sequence, writer's time, checksum, then content that follows from
// (disk, number, sequence). For a block that the witness did not write, only the checksum of its
// bytes is known.
#include "disk.hpp"
#include "errors.hpp"

#include <cstring>

namespace witness {
namespace {

constexpr std::uint64_t magic = 0x7373656e74697773U; // "switness", as the bytes lie on the disk
constexpr std::size_t sector_bytes = 512;

struct Header {
    std::uint64_t magic;
    std::uint64_t identity;
    std::uint64_t number;
    std::uint64_t written_ns;
    std::uint32_t sequence;
    std::uint32_t crc; // of the whole block with 0 here
};
static_assert(sizeof(Header) == 40);

Header header_of(std::span<const std::byte> block) {
    Header header{};
    std::memcpy(&header, block.data(), sizeof header);
    return header;
}

std::uint32_t crc_of(std::span<const std::byte> block) {
    Header header = header_of(block);
    header.crc = 0;
    const std::uint32_t crc = crc32c(std::as_bytes(std::span(&header, 1)));
    return crc32c(block.subspan(sizeof header), crc);
}

std::uint64_t seed_of(std::uint64_t identity, std::uint64_t number, std::uint32_t sequence) {
    return mix(mix(identity + number) + sequence);
}

// Whether the sectors after the first hold the content of `sequence`; a bit for each that does.
unsigned sectors_of(std::span<const std::byte> block, std::uint64_t seed) {
    unsigned found = 0;
    constexpr std::size_t sector_words = sector_bytes / sizeof(std::uint64_t);
    for (std::size_t sector = 1; sector < block_bytes / sector_bytes; ++sector) {
        bool same = true;
        for (std::size_t i = 0; i < sector_words && same; ++i) {
            std::uint64_t word = 0;
            const std::size_t index = sector * sector_words + i;
            std::memcpy(&word, block.data() + index * sizeof word, sizeof word);
            same = word == content_word(seed, index);
        }
        if (same) found |= 1U << sector;
    }
    return found;
}

} // namespace

void Disk::compose(std::span<std::byte> block, std::uint64_t number, std::uint32_t sequence) const {
    const std::uint64_t seed = seed_of(identity_, number, sequence);
    auto* words = reinterpret_cast<std::uint64_t*>(block.data());
    for (std::size_t i = sizeof(Header) / sizeof(std::uint64_t);
         i < block_bytes / sizeof(std::uint64_t); ++i)
        words[i] = content_word(seed, i);
    Header header{magic, identity_, number, now_ns(), sequence, 0};
    std::memcpy(block.data(), &header, sizeof header);
    header.crc = crc_of(block);
    std::memcpy(block.data(), &header, sizeof header);
}

Disk::Version Disk::version_of(std::span<const std::byte> block, std::uint64_t number,
                               bool& misplaced) const {
    const Header header = header_of(block);
    if (header.magic == magic && header.sequence != 0 && crc_of(block) == header.crc) {
        misplaced = header.identity != identity_ || header.number != number;
        if (!misplaced) return {header.sequence, header.crc};
    }
    return {0, crc32c(block)};
}

bool Disk::check(std::span<const std::byte> data, std::uint64_t number) {
    Block& block = blocks_[number];
    bool misplaced = false;
    const Version found = version_of(data, number, misplaced);
    ++reads_checked;
    const bool right = !block.known || found == block.now;
    if (!right) accuse(data, number, found, misplaced);
    // From now on the content found is the expected one, so that one fault is counted once.
    if (!block.known || !right)
        block = {.now = found, .before = {}, .known = true, .before_known = false};
    std::uint32_t highest = sequence_;
    while (highest < found.sequence && !sequence_.compare_exchange_weak(highest, found.sequence)) {
    }
    return right;
}

bool Disk::looks_torn(std::span<const std::byte> data, std::uint64_t number) const {
    const Block& block = blocks_[number];
    constexpr unsigned all = 0xfeU; // sectors 1 to 7
    const auto sectors = [&](Version v) {
        return v.sequence == 0 ? 0U : sectors_of(data, seed_of(identity_, number, v.sequence));
    };
    const unsigned now = sectors(block.now);
    const unsigned before = block.before_known ? sectors(block.before) : 0U;
    if (now != 0 && before != 0) return true;
    // The header in its first sector says which version it is.
    const std::uint32_t head = header_of(data).magic == magic ? header_of(data).sequence : 0;
    if (now == all) return head != block.now.sequence;
    if (before == all) return head == block.now.sequence;
    return false;
}

void Disk::accuse(std::span<const std::byte> data, std::uint64_t number, Version found,
                  bool misplaced) {
    const Block& block = blocks_[number];
    Kind kind = Kind::disk_corrupt;
    if (misplaced)
        kind = Kind::disk_misplaced;
    else if (block.before_known && found == block.before)
        kind = Kind::disk_lost;
    else if (found.sequence != 0 && found.sequence < block.now.sequence)
        kind = Kind::disk_stale;
    else if (found.sequence != 0)
        kind = Kind::disk_future;
    else if (looks_torn(data, number))
        kind = Kind::disk_torn;

    const Header header = header_of(data);
    std::string what =
        settings_.name + ": block " + std::to_string(number) + " of the span must hold " +
        (block.now.sequence == 0 ? "what was there before the first write"
                                 : "sequence " + std::to_string(block.now.sequence)) +
        ", and holds ";
    if (misplaced)
        what += "block " + std::to_string(header.number) +
                (header.identity == identity_ ? "" : " of another disk") + ", sequence " +
                std::to_string(header.sequence);
    else if (found.sequence != 0)
        what += "sequence " + std::to_string(found.sequence) + ", written at " +
                std::to_string(header.written_ns / ns_per_ms) + " ms";
    else
        what +=
            header.magic == magic ? "a block of ours with a wrong checksum" : "a block not of ours";
    what += " (seen at " + std::to_string(now_ns() / ns_per_ms) + " ms)";
    errors().add(kind, std::move(what));
}

} // namespace witness
