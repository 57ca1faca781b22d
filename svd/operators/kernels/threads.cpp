// The threads that kernels share. They sleep between tasks: MindSpore's own threads need the cores.
#include "common.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace {

class Pool {
 public:
  Pool() {
    for (int i = 1; i < cores(); i++) std::thread([this] { serve(); }).detach();
  }

  // One kernel at a time has the threads; another that comes meanwhile has its own alone.
  void run(int64_t tasks, const std::function<void(int64_t)> &task) {
    std::unique_lock<std::mutex> owner(busy_, std::try_to_lock);
    if (tasks == 1 || !owner) {
      for (int64_t i = 0; i < tasks; i++) task(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      tasks_ = tasks;
      next_ = 0;
      round_++;
    }
    start_.notify_all();
    work(task, tasks);
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = nullptr;  // who has not begun by now comes too late
    done_.wait(lock, [this] { return working_ == 0; });
  }

 private:
  static int cores() {
    if (const char *given = std::getenv("OMP_NUM_THREADS")) return std::max(1, std::atoi(given));
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return std::max(1u, std::thread::hardware_concurrency());
  }

  void work(const std::function<void(int64_t)> &task, int64_t tasks) {
    for (int64_t i; (i = next_++) < tasks;) task(i);
  }

  void serve() {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [&] { return task_ && round_ != seen; });
      seen = round_;
      const auto &task = *task_;
      const int64_t tasks = tasks_;
      working_++;
      lock.unlock();
      work(task, tasks);
      lock.lock();
      if (--working_ == 0) done_.notify_all();
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int64_t)> *task_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_{0};
  uint64_t round_ = 0;
  int working_ = 0;
};

}  // namespace

void parallel(int64_t tasks, const std::function<void(int64_t)> &task) {
  static Pool *pool = new Pool;  // never destroyed: its threads may outlast everything
  pool->run(tasks, task);
}
