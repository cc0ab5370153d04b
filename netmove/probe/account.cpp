#include "netmove/probe/account.hpp"

#include <algorithm>
#include <cassert>

namespace netmove {

namespace {

constexpr double us_per_ms = 1e3;
constexpr std::uint64_t ns_per_us = 1000;

std::uint64_t above(std::uint64_t whole, std::uint64_t part) {
    return whole > part ? whole - part : 0;
}

}  // namespace

void ArrivalGap::arrived(std::uint64_t at_ns) {
    if (last_ns != 0 && at_ns > last_ns && at_ns - last_ns > longest_ns) {
        longest_ns = at_ns - last_ns;
        longest_began_ns = last_ns;
    }
    last_ns = std::max(last_ns, at_ns);
}

NumberTracker::Seen NumberTracker::arrived(std::uint64_t number, std::uint64_t at_ns) {
    bool const newest = !any_ || number > highest_;
    if (!newest && highest_ - number >= window) {
        ++too_late_;
        return Seen::too_late;
    }
    if (newest) advance(number);
    if (!take(number)) {
        ++duplicated_;
        return Seen::duplicate;
    }
    ++seen_;
    gap_.arrived(at_ns);
    if (newest) return Seen::in_order;
    ++reordered_;
    return Seen::reordered;
}

// Numbers between the old and the new highest one have not been seen, whatever lay in their places.
void NumberTracker::advance(std::uint64_t number) {
    auto const step = any_ ? number - highest_ : window;
    if (step >= window) {
        std::ranges::fill(bits_, 0);
    } else {
        for (std::uint64_t i = 1; i <= step; ++i) {
            auto const place = (highest_ + i) % window;
            bits_[place / 64] &= ~(std::uint64_t{1} << place % 64);
        }
    }
    any_ = true;
    highest_ = number;
}

bool NumberTracker::take(std::uint64_t number) {
    auto const place = number % window;
    auto const bit = std::uint64_t{1} << place % 64;
    if (bits_[place / 64] & bit) return false;
    bits_[place / 64] |= bit;
    return true;
}

std::uint64_t ProbeAccount::sent(std::uint64_t at_ns) {
    assert(!full());
    samples_.push_back({at_ns, 0, 0});
    return samples_.size() - 1;
}

void ProbeAccount::answered(ProbeDatagram const& answer, std::uint64_t at_ns) {
    if (answer.number >= samples_.size() || answer.serial == 0) {
        ++foreign_;
        return;
    }
    // The echo's counts only grow: an answer that was overtaken says nothing new.
    if (!told_ && answer.known.seen + answer.known.duplicated >= answers_sent()) {
        known_ = answer.known;
    }
    if (serials_.arrived(answer.serial, at_ns) == NumberTracker::Seen::duplicate) return;
    auto& sample = samples_[answer.number];
    if (sample.delay_us != 0) return;  // the probe itself had arrived there twice
    auto const delay_us = above(at_ns, sample.sent_ns) / 1000;
    sample.delay_us =
        static_cast<std::uint32_t>(std::clamp<std::uint64_t>(delay_us, 1, UINT32_MAX));
    sample.serial = static_cast<std::uint32_t>(answer.serial);
    ++answered_;
}

void ProbeAccount::told(ProbeDatagram::Known const& known) {
    known_ = known;
    told_ = true;
}

ProbeAccount::Direction ProbeAccount::there() const {
    // What was answered was there, whatever the echo says of it.
    auto const arrived = std::max(known_.seen, answered_);
    return {samples_.size(),  above(samples_.size(), arrived), known_.duplicated,
            known_.reordered, known_.longest_gap_ns,           0};
}

ProbeAccount::Direction ProbeAccount::back() const {
    auto const sent = std::max(answers_sent(), serials_.seen());
    auto gap = serials_.gap();
    gap.arrived(ended_ns_);
    return {
        sent,           above(sent, serials_.seen()), serials_.duplicated(), serials_.reordered(),
        gap.longest_ns, gap.longest_began_ns};
}

ProbeAccount::Delay ProbeAccount::delay() const {
    std::vector<std::uint32_t> all;
    all.reserve(answered_);
    for (auto const& sample : samples_) {
        if (sample.delay_us != 0) all.push_back(sample.delay_us);
    }
    if (all.empty()) return {};
    std::ranges::sort(all);
    auto const at = [&](std::size_t per_mille) {
        return all[(all.size() - 1) * per_mille / 1000] / us_per_ms;
    };
    return {at(0), at(500), at(990), at(1000)};
}

std::vector<ProbeAccount::Silence> ProbeAccount::silences(std::uint64_t longer_than_ns) const {
    std::vector<std::uint64_t> arrivals;
    arrivals.reserve(answered_ + 1);
    for (auto const& sample : samples_) {
        if (sample.delay_us != 0) arrivals.push_back(sample.sent_ns + sample.delay_us * ns_per_us);
    }
    std::ranges::sort(arrivals);
    if (!arrivals.empty() && ended_ns_ > arrivals.back()) arrivals.push_back(ended_ns_);
    std::vector<Silence> made;
    for (std::size_t i = 1; i < arrivals.size(); ++i) {
        auto const span = arrivals[i] - arrivals[i - 1];
        if (span > longer_than_ns) made.push_back({arrivals[i - 1], span});
    }
    return made;
}

std::vector<ProbeAccount::Loss> ProbeAccount::losses() const {
    std::vector<Loss> made;
    std::uint32_t before = 0;  // serial of the last answer before the loss
    for (std::size_t i = 0; i < samples_.size(); ++i) {
        bool const lost = samples_[i].delay_us == 0;
        bool const goes_on = i > 0 && samples_[i - 1].delay_us == 0;
        if (lost && goes_on) {
            ++made.back().count;
        } else if (lost) {
            made.push_back({i, samples_[i].sent_ns, 1, 0, 0});
        } else if (goes_on) {
            // Answers that were made meanwhile and did not come.
            auto const between = samples_[i].serial - before - 1;
            made.back().back = between < made.back().count ? between : made.back().count;
        }
        if (!lost) before = samples_[i].serial;
    }
    if (!made.empty() && samples_.back().delay_us == 0) {
        // Nothing came after the last one: only the echo's own report is left.
        made.back().back = std::min(above(answers_sent(), before), made.back().count);
    }
    for (auto& loss : made) loss.there = loss.count - loss.back;
    return made;
}

}  // namespace netmove
