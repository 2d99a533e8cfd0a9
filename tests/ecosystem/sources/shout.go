// Shout prints its arguments, then standard input in upper case, and exits with the number of lines.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
)

func main() {
	fmt.Println("arguments:", strings.Join(os.Args[1:], "|"))
	lines := make(chan string)
	var done sync.WaitGroup
	done.Add(1)
	count := 0
	go func() {
		defer done.Done()
		for line := range lines {
			count++
			fmt.Printf("%d %s\n", count, strings.ToUpper(line))
		}
	}()
	scanner := bufio.NewScanner(os.Stdin)
	for scanner.Scan() {
		lines <- scanner.Text()
	}
	close(lines)
	done.Wait()
	os.Exit(count)
}
