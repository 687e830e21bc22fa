package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// pingPong sends a number to and fro between two goroutines.
func pingPong(rounds int) int {
	there, back := make(chan int), make(chan int)
	go func() {
		for n := range there {
			back <- n + 1
		}
		close(back)
	}()
	n := 0
	for i := 0; i < rounds; i++ {
		there <- n
		n = <-back
	}
	close(there)
	return n
}

func main() {
	fmt.Println("ping-pong", pingPong(20000))

	var group sync.WaitGroup
	sums := make(chan int, 100)
	for i := 0; i < 100; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			garbage := make([][]byte, 0)
			for j := 0; j < 50; j++ {
				garbage = append(garbage, make([]byte, 4096))
			}
			sums <- i + len(garbage)
		}(i)
	}
	group.Wait()
	close(sums)
	total := 0
	for sum := range sums {
		total += sum
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	fmt.Println("goroutines", total, stats.NumGC > 0)

	// A loop that never yields is preempted by a signal to its thread.
	runtime.GOMAXPROCS(1)
	spinning := true
	go func() {
		for spinning {
		}
	}()
	time.Sleep(30 * time.Millisecond)
	spinning = false
	fmt.Println("preempted")

	ticker, ticks := time.NewTicker(2*time.Millisecond), 0
	deadline := time.After(5 * time.Second)
	for ticks < 5 {
		select {
		case <-ticker.C:
			ticks++
		case <-deadline:
			fmt.Println("late")
			os.Exit(1)
		}
	}
	fmt.Println("ticks", ticks)

	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println("signal", <-got)

	out, err := exec.Command("/bin/echo", "from", "a", "child").Output()
	fmt.Printf("exec %q %v\n", out, err)
	func() {
		defer func() { fmt.Println("recovered", recover() != nil) }()
		var nothing *int
		fmt.Println(*nothing)
	}()
}
