package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ebb-dmp/ebb/retention"
	"github.com/ebb-dmp/ebb/taxonomy"
	"pgregory.net/rapid"
)

// The suite's spaces. Their names begin alike, so that one cannot be read as
// part of another.
var (
	plain   = retention.KeyedSpace{Name: "test"}
	plain2  = retention.KeyedSpace{Name: "test-2"}
	swapped = retention.KeyedSpace{Name: "test-swapped", Swapped: true}
)

// Keyed tests an engine of retention.Keyed. An engine whose spaces must be
// declared knows test and test-2 (plain) and test-swapped (swapped).
func Keyed(t *testing.T, open Opener[retention.Keyed]) {
	t.Run("RandomOperationsAnswerAsTheModelDoes", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { randomKeyed(t, open) })
	})
	type B = *bench[retention.Keyed]

	statement(t, open, "WhatIsPutIsGot", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		wantNoItem(b, plain, k)
		putItems(b, retention.Item{Key: k, Value: []byte("one")})
		putItems(b, retention.Item{Key: k, Value: []byte("two")}, retention.Item{Key: retention.Key{Partition: "p"}, Value: nil})
		b.reopen()
		wantItem(b, plain, k, "two", 0)
		wantItem(b, plain, retention.Key{Partition: "p"}, "", 0)
		wantNoItem(b, plain2, k)
	})
	statement(t, open, "AnItemIsReadableUntilItIsOver", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		over := b.clock.Now() + taxonomy.Hour
		putItems(b, retention.Item{Key: k, Value: []byte("x"), Over: over})
		b.clock.Set(over - 1)
		if it := wantItem(b, plain, k, "x", 0); it.Over != over {
			b.t.Fatalf("got over %s, want %s", it.Over, over)
		}
		wantItems(b, plain, &k.Partition, "i=x")
		b.clock.Set(over)
		wantNoItem(b, plain, k)
		wantItems(b, plain, &k.Partition)
		wantItems(b, plain, nil)
	})
	statement(t, open, "AnItemThatIsOverIsNotWritten", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		putItems(b, retention.Item{Key: k, Value: []byte("old")})
		putItems(b, retention.Item{Key: k, Value: []byte("new"), Over: b.clock.Now()})
		wantItem(b, plain, k, "old", 0)
		v := swap(b, k, "old", 0)
		if got, err := b.got.Swap(b.ctx, swapped, retention.Item{Key: k, Value: []byte("new"), Version: v, Over: b.clock.Now()}); err != nil || got != v {
			b.t.Fatalf("got version %d, %v; want that which stays, %d", got, err, v)
		}
		wantItem(b, swapped, k, "old", v)
	})
	statement(t, open, "APutReplacesTheLifeToo", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		putItems(b, retention.Item{Key: k, Value: []byte("x"), Over: b.clock.Now() + taxonomy.Minute})
		putItems(b, retention.Item{Key: k, Value: []byte("y")})
		b.clock.Advance(taxonomy.Hour)
		wantItem(b, plain, k, "y", 0)
	})
	statement(t, open, "APartitionIsScannedInItemOrderAndWhole", func(b B) {
		// Bytes that an engine might use to end, escape or bound a key.
		items := []string{"", "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "a", "a\x00", "a\x00b", "a\x01", "ab", "\xff", "\xff\x00", "\xff\xff"}
		partitions := []string{"", "\x00", "a", "a\x00", "a\x00\x01", "a\x01", "ab", "\xff", "\xff\xff"}
		var all []retention.Item
		for _, p := range partitions {
			for _, i := range items {
				all = append(all, retention.Item{Key: retention.Key{Partition: p, Item: i}, Value: []byte(p + "|" + i)})
			}
		}
		slices.Reverse(all)
		putItems(b, all...)
		b.check(b.got.Put(b.ctx, plain2, []retention.Item{{Key: retention.Key{Partition: "a", Item: "other space"}, Value: []byte("x")}}))
		b.reopen()
		for _, p := range partitions {
			var got []string
			b.check(b.got.Scan(b.ctx, plain, &p, func(it retention.Item) error {
				if it.Key.Partition != p || string(it.Value) != p+"|"+it.Key.Item {
					return fmt.Errorf("partition %q: got item %q of %q with value %q", p, it.Key.Item, it.Key.Partition, it.Value)
				}
				got = append(got, it.Key.Item)
				return nil
			}))
			if !slices.Equal(got, items) { // items are written in order
				b.t.Fatalf("partition %q: got items %q, want %q", p, got, items)
			}
		}
		got := scanAll(b, plain)
		if len(got) != len(all) {
			b.t.Fatalf("a scan of all gave %d items, want %d", len(got), len(all))
		}
		for _, it := range all {
			wantItem(b, plain, it.Key, string(it.Value), 0)
		}
	})
	statement(t, open, "DeletingIsForGoodAndMayBeRepeated", func(b B) {
		k, other := retention.Key{Partition: "p", Item: "i"}, retention.Key{Partition: "p", Item: "j"}
		putItems(b, retention.Item{Key: k, Value: []byte("x")}, retention.Item{Key: other, Value: []byte("y")})
		b.check(b.got.Delete(b.ctx, plain, []retention.Key{k, k, {Partition: "never"}}))
		b.check(b.got.Delete(b.ctx, plain, []retention.Key{k}))
		b.reopen()
		wantNoItem(b, plain, k)
		wantItem(b, plain, other, "y", 0)
	})
	statement(t, open, "PlainAndSwappedDoNotMix", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		for what, err := range map[string]error{
			"put":    b.got.Put(b.ctx, swapped, []retention.Item{{Key: k, Value: []byte("x")}}),
			"delete": b.got.Delete(b.ctx, swapped, []retention.Key{k}),
			"swap":   second(b.got.Swap(b.ctx, plain, retention.Item{Key: k, Value: []byte("x")})),
		} {
			if err == nil || errors.Is(err, retention.ErrUnknown) || errors.Is(err, retention.ErrConflict) {
				b.t.Fatalf("%s in the wrong kind of space gave %v, want an error that says so", what, err)
			}
		}
		wantNoItem(b, swapped, k)
		wantNoItem(b, plain, k)
	})
	statement(t, open, "ASwapMeetsTheVersionOrNothingHappens", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		if v := swap(b, k, "one", 0); v != 1 {
			b.t.Fatalf("the first version is %d, want 1", v)
		}
		for _, stale := range []uint64{0, 2, 7} {
			wantConflict(b, retention.Item{Key: k, Value: []byte("stale"), Version: stale})
		}
		if v := swap(b, k, "two", 1); v != 2 {
			b.t.Fatalf("the second version is %d, want 2", v)
		}
		wantConflict(b, retention.Item{Key: k, Value: []byte("again"), Version: 1})
		b.reopen()
		wantItem(b, swapped, k, "two", 2)
		wantConflict(b, retention.Item{Key: k, Version: 1})
	})
	statement(t, open, "VersionsOfADeletedKeyGoOn", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		v := swap(b, k, "one", 0)
		gone, err := b.got.Swap(b.ctx, swapped, retention.Item{Key: k, Version: v})
		b.check(err)
		wantNoItem(b, swapped, k)
		wantItems(b, swapped, nil)
		b.reopen()
		wantConflict(b, retention.Item{Key: k, Value: []byte("x"), Version: v})
		if back := swap(b, k, "two", 0); back <= gone || gone <= v {
			b.t.Fatalf("got versions %d, then %d by deleting, then %d: they must grow", v, gone, back)
		}
		if none, err := b.got.Swap(b.ctx, swapped, retention.Item{Key: retention.Key{Partition: "never"}}); err != nil || none != 0 {
			b.t.Fatalf("deleting what is not there gave %d, %v; want 0 and no error", none, err)
		}
	})
	statement(t, open, "ASwappedItemThatIsOverIsNoneButItsVersionsGoOn", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		v, err := b.got.Swap(b.ctx, swapped, retention.Item{Key: k, Value: []byte("x"), Over: b.clock.Now() + taxonomy.Hour})
		b.check(err)
		b.clock.Advance(taxonomy.Hour)
		wantNoItem(b, swapped, k)
		wantConflict(b, retention.Item{Key: k, Value: []byte("y"), Version: v})
		if next := swap(b, k, "y", 0); next <= v {
			b.t.Fatalf("got version %d after %d", next, v)
		}
	})
	statement(t, open, "OfManySwapsOfOneVersionOneWins", func(b B) {
		k := retention.Key{Partition: "p", Item: "counter"}
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for g := range errs {
			wg.Go(func() {
				for done := 0; done < 5; {
					it, err := b.got.Get(b.ctx, swapped, k)
					if err != nil && !errors.Is(err, retention.ErrNotFound) {
						errs[g] = err
						return
					}
					it.Key, it.Value = k, append(it.Value, byte('a'+g))
					switch _, err = b.got.Swap(b.ctx, swapped, it); {
					case err == nil:
						done++
					case !errors.Is(err, retention.ErrConflict):
						errs[g] = err
						return
					}
				}
			})
		}
		wg.Wait()
		b.check(errors.Join(errs...))
		it, err := b.got.Get(b.ctx, swapped, k)
		b.check(err)
		if len(it.Value) != 20 || it.Version != 20 {
			b.t.Fatalf("after 20 swaps: %d bytes, version %d", len(it.Value), it.Version)
		}
	})
	statement(t, open, "KeysUpTo512BytesAndValuesUpToAMebibyte", func(b B) {
		k := retention.Key{Partition: strings.Repeat("\x00", 256), Item: strings.Repeat("\xff", 256)}
		value := bytes.Repeat([]byte{7}, 1<<20)
		putItems(b, retention.Item{Key: k, Value: value})
		wantItem(b, plain, k, string(value), 0)
		long := retention.Key{Partition: k.Partition, Item: k.Item + "x"}
		for what, err := range map[string]error{
			"put of a long key":    b.got.Put(b.ctx, plain, []retention.Item{{Key: retention.Key{Partition: "fine"}}, {Key: long}}),
			"put of a long value":  b.got.Put(b.ctx, plain, []retention.Item{{Key: k, Value: append(value, 1)}}),
			"swap of a long key":   second(b.got.Swap(b.ctx, swapped, retention.Item{Key: long, Value: []byte("x")})),
			"swap of a long value": second(b.got.Swap(b.ctx, swapped, retention.Item{Key: k, Value: append(value, 1)})),
		} {
			if err == nil || errors.Is(err, retention.ErrUnknown) {
				b.t.Fatalf("%s gave %v, want an error that says so", what, err)
			}
		}
		wantNoItem(b, plain, retention.Key{Partition: "fine"})
	})
	statement(t, open, "ValuesBelongToTheCaller", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		mine := []byte("mine")
		putItems(b, retention.Item{Key: k, Value: mine})
		mine[0] = 'X'
		it := wantItem(b, plain, k, "mine", 0)
		it.Value[0] = 'Y'
		b.check(b.got.Scan(b.ctx, plain, &k.Partition, func(it retention.Item) error { it.Value[0] = 'Z'; return nil }))
		wantItem(b, plain, k, "mine", 0)
	})
	statement(t, open, "AScanMayWriteInItsCallbackAndEndsWithItsError", func(b B) {
		var items []retention.Item
		for i := range 20 {
			items = append(items, retention.Item{Key: retention.Key{Partition: "p", Item: fmt.Sprint(i)}, Value: []byte("x")})
		}
		putItems(b, items...)
		p := "p"
		seen := 0
		b.check(b.got.Scan(b.ctx, plain, &p, func(it retention.Item) error {
			seen++
			return b.got.Delete(b.ctx, plain, []retention.Key{it.Key})
		}))
		if seen != 20 {
			b.t.Fatalf("the scan saw %d items, want 20", seen)
		}
		wantItems(b, plain, &p)
		putItems(b, items...)
		enough := errors.New("enough")
		if err := b.got.Scan(b.ctx, plain, nil, func(retention.Item) error { return enough }); !errors.Is(err, enough) {
			b.t.Fatalf("got %v, want the caller's error", err)
		}
	})
	statement(t, open, "ACancelledContextIsHonoured", func(b B) {
		k := retention.Key{Partition: "p", Item: "i"}
		putItems(b, retention.Item{Key: k, Value: []byte("x")})
		ctx, cancel := context.WithCancel(b.ctx)
		cancel()
		_, getErr := b.got.Get(ctx, plain, k)
		for what, err := range map[string]error{
			"get":    getErr,
			"put":    b.got.Put(ctx, plain, []retention.Item{{Key: k, Value: []byte("y")}}),
			"swap":   second(b.got.Swap(ctx, swapped, retention.Item{Key: k, Value: []byte("y")})),
			"delete": b.got.Delete(ctx, plain, []retention.Key{k}),
			"scan":   b.got.Scan(ctx, plain, nil, func(retention.Item) error { return nil }),
		} {
			if !errors.Is(err, context.Canceled) {
				b.t.Fatalf("%s: got %v, want context.Canceled", what, err)
			}
		}
		wantItem(b, plain, k, "x", 0)
	})
}

func second[T any](_ T, err error) error { return err }

func putItems(b *bench[retention.Keyed], items ...retention.Item) {
	b.t.Helper()
	b.check(b.got.Put(b.ctx, plain, items))
}

func swap(b *bench[retention.Keyed], k retention.Key, value string, version uint64) uint64 {
	b.t.Helper()
	v, err := b.got.Swap(b.ctx, swapped, retention.Item{Key: k, Value: []byte(value), Version: version})
	b.check(err)
	return v
}

func wantConflict(b *bench[retention.Keyed], it retention.Item) {
	b.t.Helper()
	if _, err := b.got.Swap(b.ctx, swapped, it); !errors.Is(err, retention.ErrConflict) {
		b.t.Fatalf("swapping at version %d gave %v, want a conflict", it.Version, err)
	}
}

func wantItem(b *bench[retention.Keyed], s retention.KeyedSpace, k retention.Key, value string, version uint64) retention.Item {
	b.t.Helper()
	it, err := b.got.Get(b.ctx, s, k)
	b.check(err)
	if it.Key != k || string(it.Value) != value || it.Version != version {
		b.t.Fatalf("got %.40q of version %d under %.40q, want %.40q of version %d", it.Value, it.Version, it.Key, value, version)
	}
	return it
}

func wantNoItem(b *bench[retention.Keyed], s retention.KeyedSpace, k retention.Key) {
	b.t.Helper()
	if _, err := b.got.Get(b.ctx, s, k); !errors.Is(err, retention.ErrNotFound) {
		b.t.Fatalf("getting %q from %s gave %v, want not found", k, s.Name, err)
	}
}

// wantItems checks a scan against "item=value" in item order.
func wantItems(b *bench[retention.Keyed], s retention.KeyedSpace, partition *string, want ...string) {
	b.t.Helper()
	var got []string
	b.check(b.got.Scan(b.ctx, s, partition, func(it retention.Item) error {
		got = append(got, it.Key.Item+"="+string(it.Value))
		return nil
	}))
	if !slices.Equal(got, want) {
		b.t.Fatalf("got items %q, want %q", got, want)
	}
}

// scanAll returns all items of a space by key, since a scan of all has no order.
func scanAll(b *bench[retention.Keyed], s retention.KeyedSpace) map[retention.Key]retention.Item {
	b.t.Helper()
	got := map[retention.Key]retention.Item{}
	b.check(b.got.Scan(b.ctx, s, nil, func(it retention.Item) error {
		if _, twice := got[it.Key]; twice {
			return fmt.Errorf("item %q came twice", it.Key)
		}
		got[it.Key] = it
		return nil
	}))
	return got
}

func drawKey(t *rapid.T) retention.Key {
	part := rapid.SampledFrom([]string{"", "a", "a\x00", "b", "\xff"})
	return retention.Key{Partition: part.Draw(t, "partition"), Item: part.Draw(t, "item")}
}

func randomKeyed(t *rapid.T, open Opener[retention.Keyed]) {
	b := open.open(t)
	defer b.close()
	want := b.want.Keyed()
	drawItem := func(t *rapid.T) retention.Item {
		it := retention.Item{Key: drawKey(t), Value: rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "value")}
		if rapid.Bool().Draw(t, "ends") {
			it.Over = b.clock.Now() + taxonomy.Millis(rapid.Int64Range(-2, 5000).Draw(t, "life"))
		}
		return it
	}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch rapid.SampledFrom([]string{"put", "put", "swap", "swap", "swap", "delete", "get", "scan", "time", "reopen"}).Draw(t, "op") {
		case "put":
			items := make([]retention.Item, rapid.IntRange(0, 4).Draw(t, "n"))
			for i := range items {
				items[i] = drawItem(t)
			}
			s := rapid.SampledFrom([]retention.KeyedSpace{plain, plain2}).Draw(t, "space")
			if err := sameErr(b.got.Put(b.ctx, s, items), want.Put(b.ctx, s, items)); err != nil {
				t.Fatal(err)
			}
		case "swap":
			it := drawItem(t)
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				it.Value = nil
			}
			if cur, err := want.Get(b.ctx, swapped, it.Key); err == nil && rapid.IntRange(0, 3).Draw(t, "stale") > 0 {
				it.Version = cur.Version
			}
			g, gerr := b.got.Swap(b.ctx, swapped, it)
			w, werr := want.Swap(b.ctx, swapped, it)
			if err := sameErr(gerr, werr, retention.ErrConflict); err != nil || g != w {
				t.Fatalf("swap at version %d: got version %d, want %d; %v", it.Version, g, w, err)
			}
		case "delete":
			keys := []retention.Key{drawKey(t), drawKey(t)}
			if err := sameErr(b.got.Delete(b.ctx, plain, keys), want.Delete(b.ctx, plain, keys)); err != nil {
				t.Fatal(err)
			}
		case "get":
			s := rapid.SampledFrom([]retention.KeyedSpace{plain, plain2, swapped}).Draw(t, "space")
			k := drawKey(t)
			g, gerr := b.got.Get(b.ctx, s, k)
			w, werr := want.Get(b.ctx, s, k)
			if err := sameErr(gerr, werr, retention.ErrNotFound); err != nil || !sameItem(g, w) {
				t.Fatalf("get %q: got %+v, want %+v; %v", k, g, w, err)
			}
		case "scan":
			p := drawKey(t).Partition
			for _, s := range []retention.KeyedSpace{plain, swapped} {
				var g, w []retention.Item
				b.check(b.got.Scan(b.ctx, s, &p, func(it retention.Item) error { g = append(g, it); return nil }))
				b.check(want.Scan(b.ctx, s, &p, func(it retention.Item) error { w = append(w, it); return nil }))
				if !slices.EqualFunc(g, w, sameItem) {
					t.Fatalf("partition %q: got %+v, want %+v", p, g, w)
				}
			}
		case "time":
			b.clock.Advance(taxonomy.Millis(rapid.Int64Range(0, 4000).Draw(t, "ms")))
		case "reopen":
			b.reopen()
		}
	}
	for _, s := range []retention.KeyedSpace{plain, plain2, swapped} {
		got, n := scanAll(b, s), 0
		b.check(want.Scan(b.ctx, s, nil, func(it retention.Item) error {
			n++
			if !sameItem(got[it.Key], it) {
				t.Fatalf("space %s: got %+v, want %+v", s.Name, got[it.Key], it)
			}
			return nil
		}))
		if len(got) != n {
			t.Fatalf("space %s: got %d items, want %d", s.Name, len(got), n)
		}
	}
}

func sameItem(a, b retention.Item) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Version == b.Version && a.Over == b.Over
}
