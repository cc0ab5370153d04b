// The timeline of `sidecar probe --svg`, drawn by hand: few elements, whatever the number of
// probes. Time goes to the right; a point is a probe's delay, a red tick at the bottom one that was
// lost, a vertical line a moment of the migration.
#include <algorithm>
#include <cmath>
#include <map>

#include "netmove/probe/probe.hpp"

namespace netmove {

namespace {

// Of the whole picture and of the field of one address in it, in pixels.
constexpr double width = 1200;
constexpr double left = 70;
constexpr double right = 20;
constexpr double chart_height = 220;
constexpr double above_chart = 60;
constexpr double below_chart = 50;
constexpr double field = width - left - right;
// Ticks of an axis, about.
constexpr double ticks_wanted = 8;

/// What falls into one column of pixels.
struct Column {
    std::uint32_t least_us = UINT32_MAX;
    std::uint32_t most_us = 0;
    bool lost_there = false;
    bool lost_back = false;
};

/// 1, 2 or 5 times a power of ten, so that `span` has about ticks_wanted of them.
double tick_step(double span) {
    double const rough = std::max(span / ticks_wanted, 1e-6);
    double const power = std::pow(10.0, std::floor(std::log10(rough)));
    for (double const factor : {1.0, 2.0, 5.0}) {
        if (factor * power >= rough) return factor * power;
    }
    return 10 * power;
}

class Chart {
public:
    Chart(ProbeReport const& report, ProbeReport::Target const& target, double top)
        : target_(target),
          began_ns_(report.began_ns),
          span_ns_(static_cast<double>(std::max<std::uint64_t>(report.ended_ns - began_ns_, 1))),
          top_(top),
          most_ms_(std::max(target.udp.delay().max_ms, 0.1) * 1.05) {}

    std::string draw(std::vector<ProbeMark> const& marks) {
        sort_into_columns();
        return frame() + probes() + lost() + moments(marks);
    }

private:
    [[nodiscard]] double x(std::uint64_t at_ns) const {
        double const after = at_ns > began_ns_ ? static_cast<double>(at_ns - began_ns_) : 0;
        return left + std::min(after / span_ns_, 1.0) * field;
    }
    [[nodiscard]] double y(double delay_ms) const {
        return top_ + chart_height * (1 - delay_ms / most_ms_);
    }

    void sort_into_columns() {
        for (auto const& sample : target_.udp.samples()) {
            if (sample.delay_us == 0) continue;
            auto& column = columns_[std::lround(x(sample.sent_ns))];
            column.least_us = std::min(column.least_us, sample.delay_us);
            column.most_us = std::max(column.most_us, sample.delay_us);
        }
        auto const& samples = target_.udp.samples();
        for (auto const& loss : target_.udp.losses()) {
            for (std::uint64_t i = 0; i < loss.count; ++i) {
                auto& column = columns_[std::lround(x(samples[loss.first + i].sent_ns))];
                column.lost_there = column.lost_there || loss.there != 0;
                column.lost_back = column.lost_back || loss.back != 0;
            }
        }
    }

    [[nodiscard]] std::string frame() const {
        auto text = fmt::format(
            "<text x=\"{}\" y=\"{}\" class=\"title\">{}</text>\n"
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" class=\"frame\"/>\n",
            left, top_ - 34, target_.address.text(), left, top_, field, chart_height);
        auto const there = target_.udp.there();
        auto const back = target_.udp.back();
        text += fmt::format(
            "<text x=\"{}\" y=\"{}\">{} probes, {} lost there, {} lost back; ms to and "
            "fro</text>\n",
            left + 330, top_ - 34, there.sent, there.lost, back.lost);
        double const step = tick_step(most_ms_);
        for (int i = 0; i * step <= most_ms_; ++i) {
            text += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"left\">{:g}</text>\n",
                                left - 6, y(i * step) + 4, i * step);
        }
        double const seconds = span_ns_ / 1e9;
        double const second_step = tick_step(seconds);
        for (int i = 0; i * second_step <= seconds; ++i) {
            text += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"middle\">{:g} s</text>\n",
                                left + i * second_step / seconds * field, top_ + chart_height + 26,
                                i * second_step);
        }
        return text;
    }

    [[nodiscard]] std::string probes() const {
        std::string text = "<path class=\"probe\" d=\"";
        for (auto const& [column, seen] : columns_) {
            if (seen.most_us == 0) continue;
            // A column of one probe is a point: a line of no length with a round end.
            text += fmt::format("M{} {:.1f}V{:.1f}", column, y(seen.most_us / 1e3),
                                y(seen.least_us / 1e3));
        }
        return text + "\"/>\n";
    }

    [[nodiscard]] std::string lost() const {
        std::string there;
        std::string back;
        double const bottom = top_ + chart_height;
        for (auto const& [column, seen] : columns_) {
            if (seen.lost_there) there += fmt::format("M{} {}v6", column, bottom);
            if (seen.lost_back) back += fmt::format("M{} {}v6", column, bottom + 6);
        }
        std::string text;
        if (!there.empty()) text += fmt::format("<path class=\"there\" d=\"{}\"/>\n", there);
        if (!back.empty()) text += fmt::format("<path class=\"back\" d=\"{}\"/>\n", back);
        return text;
    }

    [[nodiscard]] std::string moments(std::vector<ProbeMark> const& marks) const {
        std::string text;
        double const end = static_cast<double>(began_ns_) + span_ns_;
        int row = 0;
        for (auto const& mark : marks) {
            if (mark.at_ns < began_ns_ || static_cast<double>(mark.at_ns) > end) continue;
            double const at = x(mark.at_ns);
            // Names one below the other: the moments are milliseconds apart.
            text += fmt::format(
                "<path class=\"mark\" d=\"M{:.2f} {}V{}\"/>\n"
                "<text x=\"{:.1f}\" y=\"{}\" class=\"mark-name\">{}</text>\n",
                at, top_ - 8, top_ + chart_height, at + 4, top_ + 12 + 14 * row++, mark.name);
        }
        return text;
    }

    ProbeReport::Target const& target_;
    std::uint64_t began_ns_;
    double span_ns_;
    double top_;
    double most_ms_;
    std::map<long, Column> columns_;
};

}  // namespace

std::string probe_svg(ProbeReport const& report, std::vector<ProbeMark> const& marks) {
    double const each = above_chart + chart_height + below_chart;
    double const height = each * static_cast<double>(report.targets.size());
    auto text = fmt::format(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\">\n"
        "<style>text{{font:12px sans-serif}} .title{{font-weight:bold}} .left{{text-anchor:end}}"
        " .middle{{text-anchor:middle}} path{{fill:none}} .frame{{fill:none;stroke:#999}}"
        " .probe{{stroke:#25a;stroke-width:1.5;stroke-linecap:round}}"
        " .there{{stroke:#d00}} .back{{stroke:#f80}} .mark{{stroke:#080;stroke-dasharray:4 2}}"
        " .mark-name{{fill:#080}}</style>\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
        width, height);
    double top = above_chart;
    for (auto const& target : report.targets) {
        text += Chart(report, target, top).draw(marks);
        top += each;
    }
    return text + "</svg>\n";
}

}  // namespace netmove
