// How the teams of a block wait for one another in the GPU kernels, with host threads in place of the GPU's.
//
// The three rules of kernels/cooperative.py in small: points divided among the threads of a team, everything else written
// by its first thread, waiting before and after both; a sum over all threads by way of one number a warp; swaps
// between sweeps by the first team alone; and particles, of which one team of each cloud weighs them, finds the next
// temperature and chooses, before all teams move them: launches of their own, which wait for each other. `teams 0` runs
// all of it; `teams K` leaves out wait number K. Some waits do again what another just did (where one rule follows
// another), and leaving one of these out is no race.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

constexpr int TEAMS = 2, SIZE = 4, WARP = 2, LEVELS = 4, POINTS = 32, SWEEPS = 40;
constexpr int CLOUDS = TEAMS, PARTICLES = 8, TEMPERATURES = 12, HALVINGS = 6;
static int left_out = 0;

// Not std::barrier: its threads sleep in a pool that all barriers share, which orders what they are not meant to order.
class Barrier {
    const int size;
    std::atomic<int> arrived{0}, round{0};

  public:
    explicit Barrier(int size) : size(size) {}
    void arrive_and_wait()
    {
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
        } else
            while (round.load(std::memory_order_acquire) == now) std::this_thread::yield();
    }
};

static Barrier all(TEAMS *SIZE);
static std::vector<std::unique_ptr<Barrier>> of_team, of_warp;
static double parts[TEAMS][SIZE / WARP], shown[TEAMS][SIZE];
static double residual[LEVELS][POINTS], trial[TEAMS][POINTS], energy[LEVELS], energies[SWEEPS][LEVELS];
static int order[LEVELS];
static double betas[CLOUDS][TEMPERATURES + 1], particles[CLOUDS][PARTICLES], total[CLOUDS][PARTICLES];
static double drawn[CLOUDS], hits[CLOUDS][TEAMS], counted[CLOUDS], before[CLOUDS][PARTICLES][POINTS];
static double after[CLOUDS][PARTICLES][POINTS];
static int parents[CLOUDS][PARTICLES];

struct Thread {
    int team, lane;
    void wait(int number) const { if (number != left_out) of_team[team]->arrive_and_wait(); }
    void wait_for_all(int number) const { if (number != left_out) all.arrive_and_wait(); }
    double shuffled(double v, int step) const
    {
        auto &warp = *of_warp[(team * SIZE + lane) / WARP];
        shown[team][lane] = v;
        warp.arrive_and_wait();
        double found = shown[team][lane ^ step];
        warp.arrive_and_wait();
        return found;
    }
    template <class How> double of_all(double v, How how) const
    {
        for (int step = WARP / 2; step; step /= 2) v = how(v, shuffled(v, step));
        wait(1);
        if (lane % WARP == 0) parts[team][lane / WARP] = v;
        wait(2);
        double found = parts[team][0];
        for (int warp = 1; warp < SIZE / WARP; warp++) found = how(found, parts[team][warp]);
        return found;
    }
    double sum(double v) const { return of_all(v, [](double a, double b) { return a + b; }); }
    double largest(double v) const { return of_all(v, [](double a, double b) { return std::max(a, b); }); }
    void move(int p, int t) const
    {
        double s = 0;
        wait(3);
        for (int i = lane; i < POINTS; i += SIZE) {
            trial[team][i] = residual[p][(i + 1) % POINTS] + 0.1 * std::sin(t + i);
            s += trial[team][i] * trial[team][i];
        }
        s = sum(s);
        if (s > 1.5 * energy[p] + 1.0) return;
        wait(5);
        if (lane == 0) energy[p] = s;
        wait(6);
        for (int i = lane; i < POINTS; i += SIZE) residual[p][i] = trial[team][i] / (1.0 + energy[p]);
        wait(7);
    }
    double share(int cloud, double change, double least) const
    {
        double s = 0, squares = 0;
        for (int i = lane; i < PARTICLES; i += SIZE) {
            double w = std::exp(-change * (particles[cloud][i] - least));
            s += w;
            squares += w * w;
        }
        s = sum(s);
        squares = sum(squares);
        return s * s / (squares * PARTICLES);
    }
    void choose(int cloud, int level) const
    {
        if (lane == 0) {
            counted[cloud] = 0;
            for (double some : hits[cloud]) counted[cloud] += some;
        }
        wait(12);
        double top = -particles[cloud][0];
        for (int i = lane; i < PARTICLES; i += SIZE) top = std::max(top, -particles[cloud][i]);
        double least = -largest(top), low = 0, high = 1;
        for (int halving = 0; halving < HALVINGS; halving++) {
            double middle = 0.5 * (low + high);
            (share(cloud, middle, least) > 0.5 ? low : high) = middle;
        }
        wait(13);
        if (lane == 0) betas[cloud][level + 1] = betas[cloud][level] + high / (1 + counted[cloud]);
        wait(14);
        double so_far = 0;
        for (int i = 0; i < PARTICLES; i++) {
            so_far += std::exp((betas[cloud][level] - betas[cloud][level + 1]) * (particles[cloud][i] - least));
            wait(15);
            if (lane == 0) total[cloud][i] = so_far;
            wait(16);
        }
        wait(17);
        for (int i = lane; i < 1; i += SIZE) drawn[cloud] = 0.5 + 0.4 * std::sin(level);
        wait(18);
        if (lane == 0)
            for (int a = 0, parent = 0; a < PARTICLES; a++) {
                while (parent < PARTICLES - 1 && total[cloud][parent] * PARTICLES < (a + drawn[cloud]) * so_far) parent++;
                parents[cloud][a] = parent;
            }
        wait(19);
    }
    void move_particles(int cloud, int level, double (*from)[PARTICLES][POINTS], double (*to)[PARTICLES][POINTS]) const
    {
        wait(20);
        if (lane == 0) hits[cloud][team] = 0;
        wait(21);
        for (int a = team; a < PARTICLES; a += TEAMS) {
            double s = 0;
            wait(22);
            for (int i = lane; i < POINTS; i += SIZE) {
                to[cloud][a][i] = from[cloud][parents[cloud][a]][i] + 0.1 * std::sin(level + a + i);
                s += betas[cloud][level + 1] * to[cloud][a][i] * to[cloud][a][i];
            }
            wait(23);
            s = sum(s);
            wait(24);
            if (lane == 0) {
                particles[cloud][a] = s;
                hits[cloud][team] += 1;
            }
            wait(25);
        }
    }
    void cool() const
    {
        for (int level = 0; level < TEMPERATURES; level++) {
            choose(team, level);
            wait_for_all(26);
            auto from = level % 2 ? after : before, to = level % 2 ? before : after;
            for (int cloud = 0; cloud < CLOUDS; cloud++) move_particles(cloud, level, from, to);
            wait_for_all(27);
        }
    }
    void run() const
    {
        for (int t = 0; t < SWEEPS; t++) {
            for (int level = team; level < LEVELS; level += TEAMS) move(order[level], t);
            wait_for_all(8);
            if (team == 0) {
                wait(9);
                if (lane == 0) {
                    for (int level = t % 2; level < LEVELS - 1; level += 2)
                        if (energy[order[level]] < energy[order[level + 1]]) std::swap(order[level], order[level + 1]);
                    for (int level = 0; level < LEVELS; level++) energies[t][level] = energy[order[level]];
                }
                wait(10);
            }
            wait_for_all(11);
        }
    }
};

int main(int, char **arguments)
{
    left_out = std::atoi(arguments[1]);
    for (int team = 0; team < TEAMS; team++) of_team.push_back(std::make_unique<Barrier>(SIZE));
    for (int warp = 0; warp < TEAMS * SIZE / WARP; warp++) of_warp.push_back(std::make_unique<Barrier>(WARP));
    for (int level = 0; level < LEVELS; level++) order[level] = level;
    std::vector<std::thread> threads;
    for (int i = 0; i < TEAMS * SIZE; i++) threads.emplace_back([i] {
            Thread{i / SIZE, i % SIZE}.run();
            Thread{i / SIZE, i % SIZE}.cool();
        });
    for (auto &thread : threads) thread.join();
    std::printf("%.17g %.17g\n", energies[SWEEPS - 1][0], betas[0][TEMPERATURES]);
}
