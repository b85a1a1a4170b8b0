package survey

import (
	"net"
	"path"
	"slices"
	"strings"
)

// maxSegments is how many segments of a path are told apart.
const maxSegments = 12

// general makes a path one that holds no identifier. What could be one is a *,
// and so is what comes behind a word that says that somebody is measured, and is
// no such word itself: it is mostly whom or what. What ends in a * is all below.
func general(written string) string {
	segments := strings.Split(path.Clean("/"+written), "/")[1:]
	behind := false
	for i, segment := range segments {
		switch is := wordOf(segment); {
		case i == maxSegments:
			return "/" + strings.Join(append(segments[:i:i], "*"), "/")
		case couldIdentify(segment):
			segments[i] = "*"
		case is > unknown:
			behind = true
		case behind && !isVersion(segment):
			segments[i] = "*"
		}
	}
	return "/" + strings.Join(segments, "/")
}

// generalHost does the same for another site's host, of which whose it is counts:
// what is in front of that may be somebody's name, unless it is a short word, one
// of measuring, or one of an SDK's own hosts.
func generalHost(host string) string {
	if net.ParseIP(host) != nil {
		return "*"
	}
	labels := strings.Split(host, ".")
	for i, label := range labels {
		isTheirs := i >= len(labels)-2 || len(label) <= 3 || wordOf(label) > unknown || slices.ContainsFunc(presets, func(preset namedPreset) bool {
			return slices.ContainsFunc(preset.Hosts, func(known string) bool { return slices.Contains(strings.Split(known, "."), label) })
		})
		if !isTheirs || couldIdentify(label) {
			labels[i] = "*"
		}
	}
	return strings.Join(labels, ".")
}

// isVersion says whether a segment is one such as v1.
func isVersion(segment string) bool {
	return len(segment) < 4 && (segment[0] == 'v' || segment[0] == 'V') && strings.Trim(segment[1:], "0123456789") == ""
}

// couldIdentify says whether a segment may be an account, an address, a token:
// anything but a short word that somebody would give to a path. v1 and 2 are
// such words, 20 is not.
func couldIdentify(segment string) bool {
	if len(segment) > 40 {
		return true
	}
	digits, letters, turns, run := 0, 0, 0, 0
	before := rune(0)
	for _, c := range segment {
		isLetter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		switch {
		case c >= '0' && c <= '9':
			digits++
		case isLetter:
			letters++
		case c != '-' && c != '_' && c != '.':
			return true // an escape, an @, a semicolon
		}
		if run++; !isLetter {
			run = 0
		}
		if run > 24 { // no word is that long
			return true
		}
		if before >= 'a' && before <= 'z' && c >= 'A' && c <= 'Z' {
			turns++
		}
		before = c
	}
	isHex := len(segment) >= 8 && strings.Trim(strings.ToLower(segment), "0123456789abcdef-") == ""
	return isHex || turns > 2 || digits > 1 && digits*3 > letters || digits > 4
}

// manySiblings is from how many different names on a path's segment stand for
// something that differs from person to person.
const manySiblings = 3

// merged has a * for a segment in which many kinds differ, and in nothing else.
// Words that say that somebody is measured are no such names.
func merged(kinds map[kind]*gathered) map[kind]*gathered {
	all := make(map[kind]*gathered, len(kinds))
	for k, g := range kinds {
		all[k] = sum(nil, g)
	}
	for again := true; again; {
		again = false
		siblings := map[kind][]kind{}
		for k, g := range all {
			segments := strings.Split(k.path, "/")
			for i := 1; i < len(segments)-g.fixed; i++ {
				if own := segments[i]; own != "*" && own != "" && wordOf(own) <= unknown {
					wider := k
					segments[i] = "*"
					wider.path = strings.Join(segments, "/")
					siblings[wider] = append(siblings[wider], k)
					segments[i] = own
				}
			}
		}
		for wider, narrow := range siblings {
			left := narrow[:0]
			for _, k := range narrow {
				if all[k] != nil {
					left = append(left, k)
				}
			}
			if len(left) < manySiblings {
				continue
			}
			again = true
			for _, k := range left {
				all[wider] = sum(all[wider], all[k])
				delete(all, k)
			}
		}
	}
	return all
}
