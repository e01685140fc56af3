// How the teams of a block wait for one another in the GPU kernels, with host threads in place of the GPU's.
//
// The three rules of kernels/cooperative.py in small: points divided among the threads of a team, everything else written
// by its first thread, waiting before and after both; a sum over all threads by way of one number a warp; and swaps
// between sweeps by the first team alone. `teams 0` runs all of it; `teams K` leaves out wait number K. Some waits do
// again what another just did (where one rule follows another), and leaving one of these out is no race.
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

constexpr int TEAMS = 2, SIZE = 4, WARP = 2, LEVELS = 4, POINTS = 32, SWEEPS = 40;
static int left_out = 0;
static std::barrier<> all(TEAMS *SIZE);
static std::vector<std::unique_ptr<std::barrier<>>> of_team;
static double parts[TEAMS][SIZE / WARP], shown[TEAMS][SIZE];
static double residual[LEVELS][POINTS], trial[TEAMS][POINTS], energy[LEVELS], energies[SWEEPS][LEVELS];
static int order[LEVELS];

struct Thread {
    int team, lane;
    void wait(int number) const { if (number != left_out) of_team[team]->arrive_and_wait(); }
    void wait_for_all(int number) const { if (number != left_out) all.arrive_and_wait(); }
    double shuffled(double v, int step) const
    {
        shown[team][lane] = v;
        of_team[team]->arrive_and_wait();
        double found = shown[team][lane ^ step];
        of_team[team]->arrive_and_wait();
        return found;
    }
    double sum(double v) const
    {
        for (int step = WARP / 2; step; step /= 2) v += shuffled(v, step);
        wait(1);
        if (lane % WARP == 0) parts[team][lane / WARP] = v;
        wait(2);
        double total = 0;
        for (double part : parts[team]) total += part;
        return total;
    }
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
    for (int team = 0; team < TEAMS; team++) of_team.push_back(std::make_unique<std::barrier<>>(SIZE));
    for (int level = 0; level < LEVELS; level++) order[level] = level;
    std::vector<std::thread> threads;
    for (int i = 0; i < TEAMS * SIZE; i++) threads.emplace_back([i] { Thread{i / SIZE, i % SIZE}.run(); });
    for (auto &thread : threads) thread.join();
    std::printf("%.17g\n", energies[SWEEPS - 1][0]);
}
