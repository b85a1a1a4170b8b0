package sdks

// Row is what an SDK did when it was tried in one way: how many requests its
// page sent, and of each event that it tracked, how many of them held it and how
// many of those arrived.
type Row struct {
	SDK, Way, Browser string
	Requests          int
	Sent, Arrived     []int
}
