package spellings

import (
	_ "embed" // the table
	"fmt"
	"strings"
)

//go:embed table.txt
var table string

// Servers are those whose readings the table has, by their letters in it.
var Servers = []Server{
	{'4', "express4"},
	{'5', "express5"},
	{'f', "fastify4"},
	{'F', "fastify5"},
	{'k', "koa"},
	{'n', "node"},
	{'p', "flask"},
	{'t', "tomcat"},
}

// Server is one of those in the folder servers.
type Server struct {
	Letter byte
	Name   string
}

// Row is what became of a request: by the path of the route, the letters of the
// servers that took it for that one. No row is for what none of them took.
type Row struct {
	Request
	Took map[string]string
}

// Table returns what the servers were found to take.
func Table() (rows []Row) {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "# ") {
			continue
		}
		fields := strings.Fields(line)
		row := Row{Request{fields[0], fields[1]}, map[string]string{}}
		for _, took := range fields[2:] {
			path, letters, _ := strings.Cut(took, "=")
			row.Took[path] = letters
		}
		rows = append(rows, row)
	}
	return rows
}

// Write is the table as text, with what the servers call themselves. Took says
// which route of a server took a request.
func Write(titles map[byte]string, took func(Server, Request) string) string {
	var text strings.Builder
	requests := Requests()
	fmt.Fprintf(&text, "# What real servers take for a route, of %d requests. make spellings writes this.\n", len(requests))
	for _, server := range Servers {
		fmt.Fprintf(&text, "# %c is %s\n", server.Letter, titles[server.Letter])
	}
	for _, request := range requests {
		var routes strings.Builder
		for _, route := range Routes {
			var letters []byte
			for _, server := range Servers {
				if took(server, request) == route.Path {
					letters = append(letters, server.Letter)
				}
			}
			if len(letters) > 0 {
				fmt.Fprintf(&routes, " %s=%s", route.Path, letters)
			}
		}
		if routes.Len() > 0 {
			fmt.Fprintf(&text, "%s%s\n", request, &routes)
		}
	}
	return text.String()
}
