package lookalike

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/ebb-dmp/ebb/segments/index"
	"github.com/ebb-dmp/ebb/taxonomy"
)

// planted is a crowd with a signal in it: topics, of which visitors have one to
// three, and a label that depends on how much of topics 0 and 1 is in what they
// did, and a little on how much they did.
type planted struct {
	*crowd
	label []bool
}

const topics = 64

// plant makes blocks of 65,536 visitors, the last cut to n, over f traits. Each
// block has its own random source, so any number of blocks begins alike.
func plant(n, f int, intercept float64) *planted {
	traits := make([]taxonomy.Trait, f)
	for i := range traits {
		traits[i] = taxonomy.CategoryTrait("t", fmt.Sprintf("%05d", i))
	}
	p := &planted{newCrowd(n, traits), make([]bool, n)}
	r := rand.New(rand.NewPCG(1, 2))
	table := func(columns []int, weight func(i int) float64) []uint16 {
		sum := 0.0
		for i := range columns {
			sum += weight(i)
		}
		out := make([]uint16, 1<<16)
		i, edge := 0, weight(0)/sum
		for k := range out {
			for (float64(k)+0.5)/(1<<16) > edge && i+1 < len(columns) {
				i++
				edge += weight(i) / sum
			}
			out[k] = uint16(columns[i])
		}
		return out
	}
	var topic [topics][]uint16
	for t := range topic {
		topic[t] = table(r.Perm(f)[:f/8], func(i int) float64 { return math.Pow(float64(i+3), -0.9) })
	}
	global := table(r.Perm(f), func(i int) float64 { return 1 / float64(i+1) })
	for b := range p.Blocks(0) {
		r := rand.New(rand.NewPCG(uint64(b), 77))
		seen := make([]int, f)
		for i := b * index.BlockSize; i < min(n, (b+1)*index.BlockSize); i++ {
			draws := int(math.Round(math.Exp(1.1*r.NormFloat64() + math.Log(30) - 0.6)))
			draws = min(400, max(1, draws))
			var own [3]int
			m := 1 + r.IntN(3)
			for k := range m {
				own[k] = r.IntN(topics)
			}
			var byTopic, strong float64
			var had []int
			for range draws {
				var j uint16
				if r.IntN(8) < 3 {
					j = global[r.IntN(1<<16)]
				} else {
					t := own[r.IntN(m)]
					byTopic++
					if t < 2 {
						strong++
					}
					j = topic[t][r.IntN(1<<16)]
				}
				if seen[j] != i+1 {
					seen[j] = i + 1
					had = append(had, int(j))
				}
			}
			for _, j := range had {
				p.add(i, j)
			}
			x := intercept + 0.35*math.Log(float64(len(had)))
			if byTopic > 0 {
				x += 5 * strong / byTopic
			}
			p.label[i] = r.Float64() < 1/(1+math.Exp(-x))
		}
	}
	return p
}

// split gives every other of the labelled to the seed, at most n.
func (p *planted) split(n int, r *rand.Rand) (seed index.Set, shown, hidden func(int) bool) {
	seed = index.NewSet(1)
	in := make([]bool, p.n)
	var labelled []int
	for v, l := range p.label {
		if l {
			labelled = append(labelled, v)
		}
	}
	r.Shuffle(len(labelled), func(i, j int) { labelled[i], labelled[j] = labelled[j], labelled[i] })
	for _, v := range labelled[:min(n, len(labelled)/2)] {
		in[v] = true
		seed[0].Add(uint32(v))
	}
	return seed, func(v int) bool { return in[v] }, func(v int) bool { return p.label[v] && !in[v] }
}

// naiveBayes scores by shrunk log-odds of each trait: what people build first.
func (c *crowd) naiveBayes(seed index.Set, without map[int]bool) []float64 {
	s, n := float64(seed.Count()), float64(c.n)
	out := make([]float64, c.n)
	for t := range c.places {
		if without[t] {
			continue
		}
		var with, a float64
		c.each(t, func(v int) {
			with++
			if seed.Contains(0, uint32(v)) {
				a++
			}
		})
		if with < minSupport {
			continue
		}
		const m = 30
		q := with / n
		p1, p0 := (a+m*q)/(s+m), (with-a+m*q)/(n-s+m)
		w := math.Log(p1/(1-p1)) - math.Log(p0/(1-p0))
		c.each(t, func(v int) { out[v] += w })
	}
	return out
}

// popularity scores by the sum over traits of how common they are: who likes
// what all like.
func (c *crowd) popularity(without map[int]bool) (popular, activity []float64) {
	popular, activity = make([]float64, c.n), make([]float64, c.n)
	for t := range c.places {
		if without[t] {
			continue
		}
		n := 0.0
		c.each(t, func(int) { n++ })
		c.each(t, func(v int) { popular[v] += n; activity[v]++ })
	}
	return popular, activity
}

// cosine scores by likeness to the mean of the seed (Rocchio).
func (c *crowd) cosine(seed index.Set, without map[int]bool) []float64 {
	_, length := c.popularity(without)
	out := make([]float64, c.n)
	for t := range c.places {
		if without[t] {
			continue
		}
		sum := 0.0
		c.each(t, func(v int) {
			if seed.Contains(0, uint32(v)) {
				sum += 1 / math.Sqrt(length[v])
			}
		})
		c.each(t, func(v int) { out[v] += sum / math.Sqrt(length[v]) })
	}
	return out
}

func (c *crowd) each(t int, fn func(v int)) {
	for b, vs := range c.places[t] {
		for _, v := range vs {
			fn(b*index.BlockSize + int(v))
		}
	}
}

// membersOf lists a set of a crowd.
func membersOf(s index.Set) []int {
	var out []int
	for _, v := range s[0].ToArray() {
		out = append(out, int(v))
	}
	return slices.Clip(out)
}
