#!/usr/bin/env bash
# Prints the licences of all that is compiled into caddy for $GOOS and $GOARCH:
# who hands the program on has to hand them on as well.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C # which sorts alike everywhere
shopt -s nocaseglob nullglob

# Folders with a licence of their own are those of modules, and some of packages.
folders() {
	echo "the Go standard library, $(go env GOVERSION)|$(go env GOROOT)"
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}|{{.Dir}}{{"\n"}}{{.Path}} {{.Version}}|{{$.Dir}}{{end}}{{end}}' ./cmd/caddy |
		sed '/^$/d' | sort -u
}

found=$(folders) # here, since a failure of it would be lost below
declare -A module licensed
while IFS='|' read -r name folder; do
	module[$name]=$folder
	for file in "$folder"/{licen[cs]e,copying,copyright,notice,patents,unlicense}*; do
		[[ -f $file && $file != *.go ]] || continue
		licensed[$name]=yes
		printf -- '%.0s-' {1..80}
		printf '\n%s: %s\n\n' "$name" "${file##*/}"
		cat "$file"
		echo
	done
done <<<"$found"
for name in "${!module[@]}"; do
	[ "${licensed[$name]-}" ] || { echo "tools/licences.sh: $name has no licence in ${module[$name]}" >&2; exit 1; }
done
