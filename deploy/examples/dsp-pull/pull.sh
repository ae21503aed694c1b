#!/bin/sh
# pull.sh: how a DSP pulls its audiences from Ebb, with sh, curl, gzip and the
# tools of POSIX; SHA-256 is by sha256sum (GNU), shasum or openssl, whichever is
# there. See README.md.
#
#   EBB_URL=https://ebb.example:8444  the partner listener
#   EBB_DESTINATION=my-dsp            our name there
#   EBB_KEY_FILE=/etc/dsp/ebb.key     a file that holds the key, or EBB_KEY itself
#   EBB_STATE=/var/lib/dsp/ebb        a directory of ours, on one file system
#   EBB_NOW=2026-11-25T12:00:00Z      (for tests) the time, instead of the clock's
#
# Prints the set as it is now, "id <tab> audience", sorted. Run it as often as
# you like; it may be killed at any moment. Exit status: 0 the set is complete;
# 75 it could not be brought up to date now, run it again later.
set -eu
LC_ALL=C
export LC_ALL
umask 077

: "${EBB_URL:?set it to the base URL of the partner listener}"
: "${EBB_DESTINATION:?set it to the name of your destination}"
: "${EBB_STATE:?set it to a directory for what is held}"
tab=$(printf '\t')
url=${EBB_URL%/}
server=$(printf '%s\n' "$url" | sed 's,^\([a-z]*://[^/]*\).*,\1,')
state=$EBB_STATE
mkdir -p "$state/files"

say() { printf 'pull: %s\n' "$*" >&2; }
later() { say "$*"; exit 75; }

# One at a time. A lock whose owner no longer runs, or that is more than a day
# old (its number may be another process's by now), is taken over. Should two do
# so at the same instant, then still no file is half of one and half of the other:
# what is downloaded is checked, and what is held is written under a name of our
# own and renamed.
lock=$state/lock
if ! mkdir "$lock" 2>/dev/null; then
	owner=$(cat "$lock/pid" 2>/dev/null || :)
	if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null && [ -z "$(find "$lock" -prune -mtime +0)" ]; then
		later "another pull (process $owner) is at work"
	fi
	rm -rf "$lock"
	mkdir "$lock" 2>/dev/null || later "another pull is at work"
fi
echo $$ >"$lock/pid"
rm -f "$state"/*.new.*
trap 'rm -rf "$lock"' EXIT
trap 'exit 75' HUP INT TERM

# The key goes to curl in a file of options that only we can read: what stands
# in its arguments is shown to everyone by ps.
if [ -n "${EBB_KEY_FILE:-}" ]; then
	key=$(cat "$EBB_KEY_FILE")
else
	key=${EBB_KEY:?set EBB_KEY_FILE or EBB_KEY to the key that you were given}
fi
unset EBB_KEY
case $key in
*[!A-Za-z0-9_-]* | '') say "the key has a character that no key has"; exit 1 ;;
esac
printf 'header = "Authorization: Bearer %s"\n' "$key" >"$lock/curlrc"
fetch() { # fetch OUTPUT URL [more of curl's options]: prints the status
	out=$1 from=$2
	shift 2
	curl -K "$lock/curlrc" -sS --connect-timeout 20 --speed-time 60 --speed-limit 1 \
		-o "$out" -w '%{http_code}' "$@" -- "$from"
}

sum() { # of standard input
	if command -v sha256sum >/dev/null 2>&1; then sha256sum | cut -d ' ' -f 1
	elif command -v shasum >/dev/null 2>&1; then shasum -a 256 | cut -d ' ' -f 1
	else openssl dgst -sha256 -r | cut -d ' ' -f 1
	fi
}

# seconds: the time of RFC 3339 in UTC as seconds since 1970, in awk, since
# date -d is GNU's alone.
seconds='function seconds(t,   y, m, d) {
	y = substr(t, 1, 4) + 0; m = substr(t, 6, 2) + 0; d = substr(t, 9, 2) + 0
	if (m <= 2) { y--; m += 12 }
	d += 365 * y + int(y / 4) - int(y / 100) + int(y / 400) + int((153 * (m - 3) + 2) / 5) - 719469
	return d * 86400 + substr(t, 12, 2) * 3600 + substr(t, 15, 2) * 60 + substr(t, 18, 2)
}'
now=${EBB_NOW:-$(date -u +%Y-%m-%dT%H:%M:%SZ)}

# What is held is one file: its first line names the last file applied, the
# others are "id <tab> audience <tab> second at which it ends", sorted. It is
# replaced by a rename, so it is always whole, and always says what it holds.
set_file=$state/set
if ! [ -f "$set_file" ]; then
	printf '#applied\t-\n' >"$set_file.new.$$"
	mv "$set_file.new.$$" "$set_file"
fi
applied() { sed -n '1s/^#applied'"$tab"'//p' "$set_file"; }

# apply KIND NAME CREATED: makes a verified file part of what is held. What
# follows is called where sh does not stop at errors, so each is asked for.
apply() {
	rows=$state/rows.new.$$
	gzip -dc "$state/files/$2" >"$rows.text" || return 1
	awk -F '\t' -v OFS='\t' -v created="$3" "$seconds"'
		BEGIN { from = seconds(created) }
		NF != 4 || ($3 != "+" && $3 != "-") || $4 !~ /^[0-9]+$/ { bad = NR; exit }
		{ print $1, $2, 1, ($3 == "+") ? from + 60 * $4 : 0 }
		END { if (bad) { print "pull: line " bad " is not a row" > "/dev/stderr"; exit 1 } }' \
		"$rows.text" >"$rows.this" || return 1
	if [ "$1" = delta ]; then
		awk -F '\t' -v OFS='\t' 'NR > 1 { print $1, $2, 0, $3 }' "$set_file" >"$rows.held" || return 1
	else
		: >"$rows.held" || return 1 # a full replaces everything
	fi
	sort -t "$tab" -k 1,1 -k 2,2 -k 3,3n "$rows.held" "$rows.this" >"$rows.both" || return 1
	{ # of the lines of one ID and audience the last is the newest statement
		printf '#applied\t%s\n' "$2" &&
			awk -F '\t' -v OFS='\t' '
			function flush() { if (end > 0) print id, audience, end }
			# "" makes them text: as numbers, long decimal IDs would be equal.
			NR > 1 && ($1 "" != id || $2 "" != audience) { flush() }
			{ id = $1 ""; audience = $2 ""; end = $4 }
			END { flush() }' "$rows.both"
	} >"$set_file.new.$$" || return 1
	mv "$set_file.new.$$" "$set_file" || return 1
	rm -f "$rows".*
}

# get NAME URL BYTES SHA256: fetches a file, from where it was left.
get() {
	part=$state/files/$1.part
	if [ -f "$state/files/$1" ]; then return 0; fi
	if [ -f "$part" ] && [ "$(wc -c <"$part")" -ge "$3" ]; then
		# Whole already, or too long; asking for what is behind it is an error.
		[ "$(sum <"$part")" = "$4" ] || rm -f "$part"
	fi
	if ! [ -f "$part" ] || [ "$(wc -c <"$part")" -lt "$3" ]; then
		: >>"$part"
		# -C - resumes by Range. What a refusal says in its body must not end up
		# behind what we have: --fail keeps it out.
		status=$(fetch "$part" "$2" -C - --fail) || {
			[ $? -ne 33 ] || rm -f "$part" # it cannot be resumed
			[ "${status:-}" != 410 ] || return 10
			return 11
		}
	fi
	if [ "$(sum <"$part")" != "$4" ]; then
		rm -f "$part"
		say "$1 does not have the SHA-256 of the manifest; it will be fetched anew"
		return 11
	fi
	mv "$part" "$state/files/$1"
}

# bring takes the manifest and applies what is new in it. It returns 10 if a file
# was withdrawn meanwhile, so that the manifest must be read again.
bring() {
	status=$(fetch "$lock/manifest" "$url/v1/destinations/$EBB_DESTINATION/files" -H 'Accept: text/tab-separated-values') || return 11
	if [ "$status" != 200 ]; then
		say "the manifest answers $status"
		return 11
	fi
	# The files to apply: those after the last one applied, or else all of them,
	# which must then begin with a full.
	awk -F '\t' -v last="$(applied)" '
		$1 == "file" { n++; line[n] = $0; kind[n] = $4; if ($2 == last) from = n }
		END {
			if (!from && kind[1] != "full") exit 1
			for (i = from + 1; i <= n; i++) print line[i]
		}' "$lock/manifest" >"$lock/todo" || {
		say "there is no full now: the first is not made, or one was withdrawn and the new one is not there yet"
		return 11
	}
	# Files that the manifest no longer names are not needed, and must not be
	# kept: they may hold someone who asked to be forgotten.
	for f in "$state/files/"*; do
		[ -f "$f" ] || continue
		name=${f##*/}
		cut -f 2 "$lock/manifest" | grep -qxF -e "${name%.part}" || rm -f "$f"
	done
	while IFS="$tab" read -r _ name path kind _ _ _ bytes sha created _; do
		case $name in */* | .* | '') say "the manifest names a file $name"; return 11 ;; esac
		# A path from the root of the same server, so that the key goes nowhere else.
		case $path in /*) ;; *) say "the manifest names a place $path"; return 11 ;; esac
		get "$name" "$server$path" "$bytes" "$sha" || return $?
		apply "$kind" "$name" "$created" || return 11
		rm -f "$state/files/$name"
	done <"$lock/todo"
}

result=11
for try in 1 2 3; do
	if bring; then
		result=0
		break
	else
		result=$?
	fi
	[ $result -eq 10 ] || break
	say "a file was withdrawn; taking the new full"
done

# Members end by the clock, whether or not anything new could be pulled.
sed 1d "$set_file" | awk -F '\t' -v OFS='\t' -v now="$now" "$seconds"'
	BEGIN { t = seconds(now) }
	$3 > t { print $1, $2 }'
[ $result -eq 0 ] || later "the set above is not up to date; run it again later"
