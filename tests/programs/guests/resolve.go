// Names that Go's own resolver looks up: each argument, with its addresses, or the error.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"time"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		addresses, err := resolver.LookupHost(limit, name)
		cancel()
		var failure *net.DNSError
		switch {
		case err == nil:
			sort.Strings(addresses)
			fmt.Println(name, strings.Join(addresses, " "))
		case errors.As(err, &failure) && failure.IsNotFound:
			fmt.Println(name, "no name")
		case errors.As(err, &failure) && failure.IsTemporary:
			fmt.Println(name, "try again")
		default:
			fmt.Println(name, "error")
		}
	}
}
